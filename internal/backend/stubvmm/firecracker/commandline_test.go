package firecracker_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCommandLine is behaviours 30 and 33: what a command line comes to that starts no API.
func TestCommandLine(t *testing.T) {
	const leave = "[anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n"
	tests := map[string]struct {
		args     []string
		code     int
		by       syscall.Signal
		out, err string
	}{
		"version":          {[]string{"--version"}, 0, 0, "Firecracker v1.16.1\n\n" + leave, ""},
		"snapshot version": {[]string{"--snapshot-version"}, 0, 0, "v10.0.0\n" + leave, ""},
		"unknown": {[]string{"--colour", "red"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Found argument 'colour' which wasn't expected, or isn't valid in this context. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(UnexpectedArgument("colour"))` + "\n"},
		"without hyphens": {[]string{"colour"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Found argument 'colour' which wasn't expected, or isn't valid in this context. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(UnexpectedArgument("colour"))` + "\n"},
		"repeated": {[]string{"--id", "a", "--id", "b"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: The argument 'id' was provided more than once. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(DuplicateArgument("id"))` + "\n"},
		"no value": {[]string{"--id"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: The argument 'id' requires a value, but none was supplied. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(MissingValue("id"))` + "\n"},
		"no api without a file": {[]string{"--no-api"}, 153, 0,
			"[anonymous-instance:main] Arguments parsing error: Argument 'config-file' required, but not found. \\n\\nFor more information try --help.\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=153\n",
			`Error: ParseArguments(MissingArgument("config-file"))` + "\n"},
		"bad level": {[]string{"--level", "loud"}, 152, 0,
			"[anonymous-instance:main] Invalid value for logger level: Failed to parse string to level filter: loud.Possible values: [Error, Warning, Info, Debug]\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=152\n",
			`Error: InvalidLogLevel(LevelFilterFromStrError("loud"))` + "\n"},
		"bad id":  {[]string{"--id", "a_b"}, -1, syscall.SIGABRT, "*", ""},
		"long id": {[]string{"--id", strings.Repeat("a", 65)}, -1, syscall.SIGABRT, "*", ""},
		"no log": {[]string{"--log-path", "/none/log"}, 1, 0,
			"[anonymous-instance:main] Could not initialize logger: Failed to open target file: No such file or directory (os error 2)\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=1\n",
			`Error: LoggerInitialization(LoggerUpdateError(Os { code: 2, kind: NotFound, message: "No such file or directory" }))` + "\n"},
		"no metrics": {[]string{"--metrics-path", "/none/m"}, 1, 0,
			"[anonymous-instance:main] Running Firecracker v1.16.1\n" +
				"[anonymous-instance:main] Could not initialize metrics: Cannot initialize the metrics system due to bad user input: No such file or directory (os error 2)\n" +
				"[anonymous-instance:main] Firecracker exiting with error. exit_code=1\n",
			`Error: MetricsInitialization(InitializationFailure("No such file or directory (os error 2)"))` + "\n"},
	}
	each(t, func(t *testing.T, exe string) {
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				p := launch(t, exe, dirFor(t), tt.args...)
				code, by := p.wait(t)
				if code != tt.code || by != tt.by {
					t.Errorf("code %d, signal %v; want %d, %v", code, by, tt.code, tt.by)
				}
				if diff := cmp.Diff(tt.out, p.said(t)); diff != "" && tt.out != "*" {
					t.Errorf("standard output (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.err, p.err.String()); diff != "" {
					t.Errorf("standard error (-want +got):\n%s", diff)
				}
			})
		}
	})
}
