package cloudhypervisor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// addNet gives the VM a network interface on open tap devices, one for each pair of its queues. It is made before the
// guest is booted, since vm.create takes no open files. The files stay the caller's, and Cloud Hypervisor keeps
// duplicates of its own.
//
// The call has a connection of its own: open files go with the bytes of a message, and the server hands a request all
// files that came with any of its bytes, also those of an earlier one that it did not finish.
func (c *client) addNet(ctx context.Context, n netConfig, taps ...*os.File) error {
	cl := putAddNet(n)
	limited, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	conn, err := c.dial(limited)
	if err != nil {
		return c.broken(ctx, limited, cl, err)
	}
	defer conn.Close()
	// A deadline ends a read that is under way, and an end of the context has to as well.
	stop := context.AfterFunc(limited, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	over, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%s: open files cannot be sent over a %T", cl, conn)
	}
	if err := sendWithFiles(over, wire(cl), taps); err != nil {
		return c.broken(ctx, limited, cl, err)
	}
	reply := io.LimitReader(conn, maxHeader+maxReply+1)
	resp, err := http.ReadResponse(bufio.NewReader(reply), &http.Request{Method: cl.Method})
	if err != nil {
		return c.broken(ctx, limited, cl, err)
	}
	_, err = c.read(ctx, limited, cl, resp)
	return err
}

// wire is a call as it goes over the connection.
func wire(cl call) []byte {
	var b bytes.Buffer
	b.WriteString(cl.Method + " " + root + cl.Path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
	b.WriteString("Content-Length: " + strconv.Itoa(len(cl.Body)) + "\r\n\r\n")
	b.Write(cl.Body)
	return b.Bytes()
}

// sendWithFiles sends text, and the files with the first of its bytes.
func sendWithFiles(conn *net.UnixConn, text []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := conn.WriteMsgUnix(text, unix.UnixRights(fds...), nil)
	if err != nil || n == len(text) {
		return err
	}
	_, err = conn.Write(text[n:])
	return err
}
