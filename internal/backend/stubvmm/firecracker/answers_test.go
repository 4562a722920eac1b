package firecracker_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/stubvmm"
)

var record = flag.Bool("record", false, "write what the real Firecracker answers into testdata")

const patience = 20 * time.Second

// A file of testdata is a list of conversations. Each begins with "== name", behind which may be "| " and arguments for
// Firecracker, and is held with a process of its own. "> METHOD path body" is a request, and "> raw" with a quoted
// string is bytes as they are; "< " is the answer. Firecracker runs in a directory with what
// dirFor makes.
type conversation struct {
	name  string
	args  []string
	steps []step
}

type step struct{ ask, answer string }

const answers = "testdata/answers.txt"

// TestAnswers holds the conversations with the stand-in, and with the real Firecracker if METALD_TEST_FIRECRACKER names
// it. What is in testdata was said by the real one.
func TestAnswers(t *testing.T) {
	talks := read(t, answers)
	t.Run("stub", func(t *testing.T) { compare(t, binary(t), talks) })
	t.Run("real", func(t *testing.T) {
		real := os.Getenv("METALD_TEST_FIRECRACKER")
		if real == "" {
			t.Skip("no METALD_TEST_FIRECRACKER: the path of Firecracker 1.16.1 is not given")
		}
		if *record {
			for i := range talks {
				hold(t, real, &talks[i], true)
			}
			write(t, answers, talks)
			return
		}
		compare(t, real, talks)
	})
}

func compare(t *testing.T, exe string, talks []conversation) {
	for _, talk := range talks {
		t.Run(talk.name, func(t *testing.T) {
			t.Parallel()
			got := conversation{name: talk.name, args: talk.args, steps: append([]step{}, talk.steps...)}
			hold(t, exe, &got, false)
			for i, s := range got.steps {
				if diff := cmp.Diff(talk.steps[i].answer, s.answer); diff != "" {
					t.Errorf("%s (-Firecracker +got):\n%s", s.ask, diff)
				}
			}
		})
	}
}

// hold fills in the answers.
func hold(t *testing.T, exe string, talk *conversation, recording bool) {
	t.Helper()
	dir := dirFor(t)
	p := startIn(t, exe, dir, talk.args...)
	for i := range talk.steps {
		talk.steps[i].answer = musl(p.ask(t, talk.steps[i].ask))
	}
	if recording {
		t.Logf("%s: %d answers", talk.name, len(talk.steps))
	}
}

// musl puts musl's words for errors where glibc's are: a release is built with the former.
func musl(s string) string {
	return strings.NewReplacer(
		"Device or resource busy", "Resource busy",
		"Address already in use", "Address in use",
		"File name too long", "Filename too long",
		"Cannot allocate memory", "Out of memory",
		"Too many levels of symbolic links", "Symbolic link loop",
	).Replace(s)
}

// dirFor makes a short directory with files to configure with.
func dirFor(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "f")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.WriteFile(filepath.Join(dir, "kernel"), stubvmm.Kernel(), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "short"), []byte("\x7fELF"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 4096), 0o644))
	for _, name := range []string{"disk", "disk2"} {
		must(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 4096), 0o644))
	}
	return dir
}

// process is a Firecracker, the stand-in or the real one.
type process struct {
	cmd    *exec.Cmd
	socket string
	out    string // a file: its standard output
	err    *bytes.Buffer
}

func start(t testing.TB, exe string, args ...string) *process {
	t.Helper()
	return startIn(t, exe, dirFor(t), args...)
}

func startIn(t testing.TB, exe, dir string, args ...string) *process {
	t.Helper()
	p := launch(t, exe, dir, args...)
	p.await(t)
	return p
}

func launch(t testing.TB, exe, dir string, args ...string) *process {
	t.Helper()
	out, err := os.CreateTemp(dir, "out")
	must(t, err)
	defer out.Close()
	p := &process{socket: filepath.Join(dir, "api"), out: out.Name(), err: &bytes.Buffer{}}
	p.cmd = exec.Command(exe, append([]string{"--api-sock", p.socket}, args...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, p.err
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// await waits until the process serves.
func (p *process) await(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if conn, err := net.Dial("unix", p.socket); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no API after %s: %s", patience, p.err)
		}
	}
}

// ask says what is answered to a request, in a connection of its own.
func (p *process) ask(t testing.TB, ask string) string {
	t.Helper()
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	if quoted, ok := strings.CutPrefix(ask, "raw "); ok {
		return p.raw(t, conn, quoted)
	}
	_, err = io.WriteString(conn, request(ask))
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	line := strconv.Itoa(resp.StatusCode)
	if resp.Header.Get("Deprecation") != "" {
		line += " deprecated"
	}
	if len(body) > 0 {
		line += " " + strings.ReplaceAll(string(body), "\n", `\n`)
	}
	return line
}

func request(ask string) string {
	words := strings.SplitN(ask, " ", 3)
	if len(words) < 3 {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n", words[0], words[1])
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		words[0], words[1], len(words[2]), words[2])
}

// raw writes bytes and returns all that comes until nothing more does.
func (p *process) raw(t testing.TB, conn net.Conn, quoted string) string {
	t.Helper()
	text, err := strconv.Unquote(quoted)
	must(t, err)
	if text != "" {
		_, err = io.WriteString(conn, text)
		must(t, err)
	}
	var all []byte
	for buf := make([]byte, 4096); ; {
		must(t, conn.SetReadDeadline(time.Now().Add(150*time.Millisecond)))
		n, err := conn.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return strconv.Quote(string(all))
		}
	}
}

// post asks and demands an answer that begins so.
func (p *process) post(t testing.TB, ask, want string) {
	t.Helper()
	if got := p.ask(t, ask); !strings.HasPrefix(got, want) {
		t.Fatalf("%s: %s, want %s", ask, got, want)
	}
}

func read(t *testing.T, name string) []conversation {
	t.Helper()
	text, err := os.ReadFile(name)
	must(t, err)
	var talks []conversation
	for _, line := range strings.Split(string(text), "\n") {
		if head, ok := strings.CutPrefix(line, "== "); ok {
			name, args, _ := strings.Cut(head, " | ")
			talks = append(talks, conversation{name: name, args: strings.Fields(args)})
			continue
		}
		last := len(talks) - 1
		if ask, ok := strings.CutPrefix(line, "> "); ok {
			talks[last].steps = append(talks[last].steps, step{ask: ask})
		} else if answer, ok := strings.CutPrefix(line, "< "); ok {
			talks[last].steps[len(talks[last].steps)-1].answer = answer
		}
	}
	return talks
}

func write(t *testing.T, name string, talks []conversation) {
	t.Helper()
	var b strings.Builder
	for i, talk := range talks {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "== %s", talk.name)
		if len(talk.args) > 0 {
			fmt.Fprintf(&b, " | %s", strings.Join(talk.args, " "))
		}
		b.WriteString("\n")
		for _, s := range talk.steps {
			fmt.Fprintf(&b, "> %s\n< %s\n", s.ask, s.answer)
		}
	}
	must(t, os.WriteFile(name, []byte(b.String()), 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
