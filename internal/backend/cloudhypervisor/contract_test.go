package cloudhypervisor

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// contract is Cloud Hypervisor's own description of its API, in which requests may have no fields but the ones it lists:
// Cloud Hypervisor itself ignores what it doesn't know, and a name that is wrong would go unnoticed.
func contract(t *testing.T) *openapi3.T {
	t.Helper()
	dir := os.Getenv("METALD_SPECS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "specs")
	}
	text, err := os.ReadFile(filepath.Join(dir, "cloud-hypervisor.yaml"))
	if err != nil {
		t.Skipf("there is no description of Cloud Hypervisor's API to test against, METALD_SPECS can name its folder: %v", err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	must(t, err)
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				closeSchema(op.RequestBody.Value.Content["application/json"].Schema)
			}
		}
	}
	return doc
}

// closeSchema forbids fields that are not listed, all the way down.
func closeSchema(ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil || ref.Value.AdditionalProperties.Has != nil || ref.Value.AdditionalProperties.Schema != nil {
		return
	}
	schema := ref.Value
	if schema.Type.Is("object") {
		no := false
		schema.AdditionalProperties.Has = &no
	}
	closeSchema(schema.Items)
	for _, property := range schema.Properties {
		closeSchema(property)
	}
}

// violation is what the description has against a request.
func violation(doc *openapi3.T, s seen) string {
	path, under := strings.CutPrefix(s.Path, root)
	item := doc.Paths.Find(path)
	if !under || item == nil || item.GetOperation(s.Method) == nil {
		return "there is no such operation"
	}
	op := item.GetOperation(s.Method)
	switch {
	case op.RequestBody == nil && s.Body == "":
		return ""
	case op.RequestBody == nil:
		return "it takes no body"
	}
	var value any
	if err := json.Unmarshal([]byte(s.Body), &value); err != nil {
		return err.Error()
	}
	if err := op.RequestBody.Value.Content["application/json"].Schema.Value.VisitJSON(value); err != nil {
		return err.Error()
	}
	return ""
}

// sent is every request that metald can send: by the verbs, and by the translation, with the taps by name and as open
// files.
func sent(t *testing.T) []seen {
	t.Helper()
	a := serve(t, healthy)
	c, ctx := a.client(), patient(t)
	for _, name := range slices.Sorted(maps.Keys(verbs(c))) {
		must(t, verbs(c)[name](ctx))
	}
	for _, req := range wanted() {
		p, err := translate(req, here)
		must(t, err)
		for _, n := range p.networks {
			must(t, c.addNet(ctx, n.overFiles(), os.Stdin))
		}
		p.config.Net = p.networks
		must(t, c.create(ctx, p.config))
	}
	return a.got()
}

func TestRequestsKeepTheContract(t *testing.T) {
	doc := contract(t)
	for _, s := range sent(t) {
		if v := violation(doc, s); v != "" {
			t.Errorf("%s %s %s: %s", s.Method, s.Path, s.Body, v)
		}
	}
}

// What Cloud Hypervisor refuses, and what it would ignore, the contract as it is read here has to refuse.
func TestContractRefuses(t *testing.T) {
	doc := contract(t)
	const payload = `"payload":{"kernel":"/k"}`
	for _, s := range []seen{
		{Method: "PUT", Path: "/api/v1/nowhere", Body: `{}`},
		{Method: "PUT", Path: "/vm.boot"},
		{Method: "POST", Path: "/api/v1/vm.boot"},
		{Method: "PUT", Path: "/api/v1/vm.boot", Body: `{}`},
		{Method: "GET", Path: "/api/v1/vm.info", Body: `{}`},
		{Method: "PUT", Path: "/api/v1/vm.create"},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"networks":[]}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"cpus":{"boot_vcpus":1}}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"cpus":{"boot_vcpus":0,"max_vcpus":1}}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"memory":{"hotplug_size":1}}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"memory":{"size":"1G"}}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"serial":{"mode":"socket"}}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"disks":[{"path":"/d","read_only":true}]}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"disks":[{"path":"/d","image_type":"raw"}]}`},
		{Method: "PUT", Path: "/api/v1/vm.create", Body: `{` + payload + `,"landlock_rules":[{"path":"/d"}]}`},
		{Method: "PUT", Path: "/api/v1/vm.add-net", Body: `{"id":"net0","guest_mac":"02:00:00:00:00:01"}`},
	} {
		if violation(doc, s) == "" {
			t.Errorf("%s %s %s is well by the contract", s.Method, s.Path, s.Body)
		}
	}
}

// The answers that the tests of the client have it read are answers that the description allows, but for counters and
// sizes that need all of 64 bits, which it calls int64.
func TestAnswersKeepTheContract(t *testing.T) {
	doc := contract(t)
	for _, path := range []string{"/vmm.ping", "/vm.info", "/vm.counters"} {
		body := bodyOf(healthy(seen{Method: "GET", Path: root + path}))
		body = strings.NewReplacer("18446744073709551615", "9007199254740991", "9223372036854775808", "9007199254740991").Replace(body)
		var value any
		must(t, json.Unmarshal([]byte(body), &value))
		schema := doc.Paths.Find(path).Get.Responses.Status(200).Value.Content["application/json"].Schema
		closeSchema(schema)
		if err := schema.Value.VisitJSON(value, openapi3.VisitAsResponse()); err != nil {
			t.Errorf("GET %s: %v", path, err)
		}
	}
}

func bodyOf(reply string) string {
	_, body, _ := strings.Cut(reply, "\r\n\r\n")
	return body
}
