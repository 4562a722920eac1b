package firecracker

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

// misbehave does what the knobs say of the time before the socket.
func (p *process) misbehave() (code int, ended bool) {
	v := p.vmm
	for range v.knobs.Noise {
		_, _ = syscall.Write(2, []byte(strings.Repeat("it goes wrong and on\n", 49)))
	}
	if v.knobs.Chatter {
		go v.chatter()
	}
	if v.knobs.NoSocket {
		forever()
	}
	time.Sleep(v.knobs.Start)
	if v.knobs.Die != 0 {
		fmt.Fprintln(p.stderr, "stub-firecracker: the stand-in was told to die")
		return v.knobs.Die, true
	}
	return 0, false
}

func (v *vmm) chatter() {
	for n := 1; ; n++ {
		v.log.log(levelError, mainThread, "%s", strings.Repeat("it goes wrong and on, ", 20))
		if n%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}
