// Package fifo takes what one Firecracker writes into its metrics FIFO and keeps totals of it that outlive metald,
// whatever instruction a kill ends it at: no line counts twice, and none is lost unnoticed.
//
// What a read takes out of a pipe dies with its reader. So the bytes are moved, by splice(2), from the FIFO to the end
// of a file, which is the same to every observer as one step: within the call the kernel takes out of the pipe what
// the file holds by then, and a process that is killed leaves its system call first. The totals are what the state at
// the front of the file says and the bytes behind it, read again after a restart.
//
// There are two such files, and one is in use. When it has grown, the other is emptied, and gets the state of now in
// one write; from then on it is the one in use. The write is whole when its checksum and length fit; until it is, the
// old file is whole. Nothing is synced: a host that goes down takes the VMM with it.
//
// While no metald lives, bytes stay in the pipe, which Firecracker itself keeps open.
package fifo
