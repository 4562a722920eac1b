package fake

import (
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/guest"
)

// reactionTime is how long the guest takes to obey.
const reactionTime = 2 * time.Millisecond

// runGuest is what the guest does when it boots.
func (p *process) runGuest() {
	p.after(0, func() {
		p.say(guest.Marker)
		for _, path := range p.opts.Touch {
			p.touch(path)
		}
		if p.opts.Write > 0 {
			p.write()
		}
		if p.opts.Count {
			p.count(1)
		}
		if p.opts.Flood {
			p.flood(1)
		}
		if p.opts.Exit != "" {
			p.after(max(p.opts.After, reactionTime), p.endItself)
		}
	})
}

// say writes a line to the console, if anybody reads it.
func (p *process) say(lines ...string) {
	p.saying.Lock()
	defer p.saying.Unlock()
	p.mu.Lock()
	console := p.console
	p.mu.Unlock()
	if console == nil || !p.spec.Console.Enabled || p.spec.Console.Output == "none" {
		return
	}
	// A console that takes nothing is not the guest's concern.
	_, _ = io.WriteString(console, strings.Join(lines, "\r\n")+"\r\n")
}

func (p *process) count(n int) {
	p.after(time.Second, func() {
		p.say(guest.Second(n))
		p.count(n + 1)
	})
}

// flood says a thousand lines at a time.
func (p *process) flood(n int) {
	p.after(time.Millisecond, func() {
		lines := make([]string, 1000)
		for i := range lines {
			lines[i] = guest.FloodLine(n+i, " all work and no play")
		}
		p.say(lines...)
		p.flood(n + len(lines))
	})
}

func (p *process) endItself() {
	switch p.opts.Exit {
	case guest.ExitPowerOff:
		p.say(guest.PoweringOff)
		p.end(types.Exit{Reason: types.ReasonGuestShutdown})
	case guest.ExitReboot:
		p.say(guest.Restarting)
		p.end(types.Exit{Reason: types.ReasonGuestReset})
	case guest.ExitPanic:
		p.say(guest.Panicking)
		p.end(types.Exit{Reason: types.ReasonGuestPanic, Detail: "Kernel panic - not syncing"})
	}
}

// pressPower is the power button.
func (p *process) pressPower() {
	p.after(reactionTime, func() {
		if p.opts.Power == guest.PowerIgnore {
			p.say(guest.PowerButton + guest.Ignored)
			return
		}
		p.say(guest.PowerButton, guest.PoweringOff)
		p.end(types.Exit{Reason: types.ReasonGuestShutdown})
	})
}

// root is the index of the root disk, -1 if there is none.
func (p *process) root() int {
	for i, d := range p.spec.Disks {
		if d.Root || len(p.spec.Disks) == 1 {
			return i
		}
	}
	return -1
}

// behind is the index of the disk that a path of the guest lies on: "/dev/vdb" is the second.
func (p *process) behind(name string) int {
	if letter, ok := strings.CutPrefix(name, "/dev/vd"); ok && len(letter) == 1 {
		return int(letter[0] - 'a')
	}
	return p.root()
}

func (p *process) touch(name string) {
	i := p.behind(name)
	switch {
	case i < 0 || i >= len(p.disks):
		p.say(guest.TouchRefused(name, "ENOENT"))
	case p.spec.Disks[i].ReadOnly:
		p.say(guest.TouchRefused(name, "EROFS"))
	default:
		p.say(guest.TouchAccepted(name))
	}
}

// write leaves the name of the file that was written where a real file system would: somewhere on the disk.
func (p *process) write() {
	i := p.behind(p.opts.WriteTo)
	if i < 0 || i >= len(p.disks) || p.spec.Disks[i].ReadOnly {
		p.say(guest.Prefix + "write: EROFS")
		return
	}
	f, err := os.OpenFile(p.disks[i], os.O_WRONLY, 0)
	if err != nil {
		p.say(guest.Prefix + "write: " + err.Error())
		return
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(path.Base(p.opts.WriteTo)), 512); err != nil {
		p.say(guest.Prefix + "write: " + err.Error())
		return
	}
	p.mu.Lock()
	p.written += p.opts.Write
	p.writes++
	p.mu.Unlock()
	p.say(guest.Wrote(p.opts.Write, p.opts.WriteTo))
}
