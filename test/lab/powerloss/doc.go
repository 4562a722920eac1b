// Package powerloss takes the power of a host at random moments while metald meters VMs on it, and looks at what the log
// of usage says of them after the host has come up again on the same disk.
//
// The host is a machine of package lab. Command host, in the directory of that name, runs in it: it starts metald and
// the guests, and says every few milliseconds what the kernel counts of each VMM, until nothing more is heard. The test
// holds the last words that were heard against how the log closed each incarnation.
package powerloss
