package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/unkeyed/unkey/go/deploy/metald/gen/vmprovisioner/v1" // the messages, by name
)

const root = "../.."

// documents returns the text of every Markdown file of the tree by its path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[strings.TrimPrefix(path, root+"/")] = string(text)
		}
	}
	if texts["README.md"] == "" {
		t.Fatal("there is no README.md")
	}
	return texts
}

func mustBlocks(t *testing.T, name, text string) []block {
	t.Helper()
	found, err := blocks(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return found
}

func TestJSONBlocks(t *testing.T) {
	for name, text := range documents(t) {
		for _, b := range mustBlocks(t, name, text) {
			if kind, rest, _ := strings.Cut(b.info, " "); kind == "json" {
				if err := decode(b.text, rest); err != nil {
					t.Errorf("%s:%d: %v", name, b.line, err)
				}
			}
		}
	}
}

// decode reads a message as metald's API does: no unknown field, and by the rules of the proto file.
func decode(text, message string) error {
	if message == "" {
		message = "CreateVmRequest"
	}
	if !strings.Contains(message, ".") {
		message = "vmprovisioner.v1." + message
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(message))
	if err != nil {
		return fmt.Errorf("there is no message %s", message)
	}
	var m proto.Message = kind.New().Interface()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		return err
	}
	return protovalidate.Validate(m)
}

func TestDecodeIsStrict(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"config":{"cpu":{"vcpu_count":1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/k"}}}`:           true,
		`{"config":{"cpu":{"vcpus":1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/k"}}}`:                false,
		`{"config":{"cpu":{"vcpu_count":-1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/k"}}}`:          false,
		`{"config":{"cpu":{"vcpu_count":1},"memory":{"size_bytes":134217728},"boot":{"kernel_path":"/k"}}} trailing `: false,
	} {
		if err := decode(text, ""); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestMakeTargets checks that what documents say to make can be made.
func TestMakeTargets(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	seen := 0
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
			seen++
			if !targets[m[1]] {
				t.Errorf("%s says `make %s`, and the Makefile has no such target", name, m[1])
			}
		}
	}
	if seen == 0 {
		t.Error("no document names a target")
	}
}

// TestLinks checks that every file that a document links to exists.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

func TestBlocks(t *testing.T) {
	got, err := blocks("a\n```sh run\nx\ny\n```\nb\n```\nz\n```\n")
	if err != nil || len(got) != 2 || got[0] != (block{3, "sh run", "x\ny\n"}) || got[1] != (block{8, "", "z\n"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"```sh\n", "```sh\n```json\n```\n"} {
		if got, err := blocks(bad); err == nil {
			t.Errorf("%q: got %+v", bad, got)
		}
	}
}
