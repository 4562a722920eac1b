package scripts

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"

	pb "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1"
	"github.com/unkeyed/unkey/go/deploy/metald/test/harness"
)

// patience bounds the wait for a guest; one without KVM takes many seconds to boot.
const patience = 3 * time.Minute

// world is what a script acts on: a metald, and the transcript of what was said to it.
type world struct {
	t          *testing.T
	options    harness.Options
	daemon     *harness.Daemon
	variables  map[string]string
	normal     normaliser
	transcript string
}

func newWorld(t *testing.T, site harness.Site, v harness.VMM) *world {
	site.StateDir = harness.ShortDir(t)
	variables := map[string]string{
		"KERNEL": site.Kernels[v.Name], "ROOTFS": site.RootDisks[v.Name], "ASSETS": site.AssetsDir, "STATE": site.StateDir,
	}
	w := &world{t: t, options: site.Options, variables: variables, normal: newNormaliser(variables)}
	w.start()
	return w
}

// start starts a metald. When the test ends nothing is to be left of its VMs.
func (w *world) start() {
	w.t.Helper()
	d := harness.Start(w.t, w.options)
	w.daemon = d
	w.t.Cleanup(func() {
		if w.daemon == d {
			d.DeleteAll(w.t)
		}
	})
}

// write adds to the transcript.
func (w *world) write(ts *testscript.TestScript, format string, args ...any) {
	f, err := os.OpenFile(w.transcript, os.O_APPEND|os.O_WRONLY, 0)
	ts.Check(err)
	defer f.Close()
	_, err = fmt.Fprintf(f, format, args...)
	ts.Check(err)
}

// wants has a command used as it is meant.
func wants(ts *testscript.TestScript, neg bool, args []string, n int, usage string) {
	if neg || len(args) != n {
		ts.Fatalf("usage: %s", usage)
	}
}

// metald restarts metald: by SIGTERM, or by SIGKILL.
func (w *world) metald(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 1, "metald restart|kill")
	switch args[0] {
	case "restart":
		w.daemon.Stop(w.t)
	case "kill":
		w.daemon.Kill(w.t)
	default:
		ts.Fatalf("metald %s: there is only restart and kill", args[0])
	}
	w.start()
	w.write(ts, "-- metald %s\n\n", args[0])
}

// api calls an RPC with a body of JSON, which may name $KERNEL and $ROOTFS, or with that of a file. What is answered is
// for the transcript to say, an error too.
func (w *world) api(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "api RPC JSON|FILE")
	rpc, body := args[0], args[1]
	if !strings.HasPrefix(body, "{") {
		body = ts.ReadFile(body)
	}
	body = strings.TrimSpace(body)
	answer, err := w.normal.answer(w.call(ts, rpc, body))
	ts.Check(err)
	w.write(ts, "> %s %s\n%s\n\n", rpc, body, answer)
	fmt.Fprintln(ts.Stdout(), answer)
}

func (w *world) call(ts *testscript.TestScript, rpc, body string) []byte {
	body = os.Expand(body, func(name string) string {
		value, ok := w.variables[name]
		if !ok {
			ts.Fatalf("there is no $%s", name)
		}
		return value
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.daemon.URL+"/vmprovisioner.v1.VmService/"+rpc, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return answer
}

// console waits until a VM's console has said a text a number of times, over all its incarnations.
func (w *world) console(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 3, "console ID TEXT TIMES")
	times, err := strconv.Atoi(args[2])
	ts.Check(err)
	w.daemon.AwaitConsole(w.t, args[0], args[1], times, patience)
	w.write(ts, "-- the console of %s has said %q %d times\n\n", args[0], args[1], times)
}

// await waits until a VM is in a state.
func (w *world) await(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "await ID STATE")
	state, ok := pb.VmState_value["VM_STATE_"+args[1]]
	if !ok {
		ts.Fatalf("there is no state %s", args[1])
	}
	harness.Eventually(w.t, patience, args[0]+" is "+args[1], func() bool {
		return w.info(ts, args[0]).State == pb.VmState(state)
	})
	w.write(ts, "-- %s is %s by itself\n\n", args[0], args[1])
}

// killVMM ends the VMM of a VM as the kernel does that needs memory.
func (w *world) killVMM(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 1, "kill-vmm ID")
	pid, err := strconv.Atoi(w.info(ts, args[0]).BackendInfo["pid"])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	w.write(ts, "-- the VMM of %s gets SIGKILL\n\n", args[0])
}

func (w *world) info(ts *testscript.TestScript, id string) *pb.GetVmInfoResponse {
	resp, err := w.daemon.Client.GetVmInfo(context.Background(), connect.NewRequest(&pb.GetVmInfoRequest{VmId: id}))
	ts.Check(err)
	return resp.Msg
}
