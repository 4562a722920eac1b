package firecracker

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi2"
	"github.com/getkin/kin-openapi/openapi2conv"
	"github.com/getkin/kin-openapi/openapi3"
)

// contract is Firecracker's own description of its API, in which requests may have no fields but the ones it lists:
// so it is in Firecracker, and so the description does not say.
func contract(t *testing.T) *openapi3.T {
	t.Helper()
	dir := os.Getenv("METALD_SPECS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "specs")
	}
	name := filepath.Join(dir, "firecracker.yaml")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Skipf("there is no description of Firecracker's API to test against, METALD_SPECS can name its folder: %v", err)
	}
	var swagger openapi2.T
	must(t, openapi2.UnmarshalFromData(text, &swagger))
	doc, err := openapi2conv.ToV3(&swagger)
	must(t, err)
	must(t, doc.Validate(t.Context()))
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

// operation finds what the description says of a request; a segment in braces stands for any.
func operation(doc *openapi3.T, method, path string) *openapi3.Operation {
	parts := strings.Split(path, "/")
	for template, item := range doc.Paths.Map() {
		names := strings.Split(template, "/")
		if len(names) != len(parts) {
			continue
		}
		same := true
		for i, name := range names {
			same = same && (name == parts[i] || strings.HasPrefix(name, "{") && parts[i] != "")
		}
		if same {
			return item.GetOperation(method)
		}
	}
	return nil
}

// violation is what the description has against a request.
func violation(doc *openapi3.T, s seen) string {
	op := operation(doc, s.Method, s.Path)
	switch {
	case op == nil:
		return "there is no such operation"
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

// sent is every request that metald can send: by the verbs, and by the translation.
func sent(t *testing.T) []seen {
	t.Helper()
	a := serve(t, healthy)
	c, ctx := a.client(), patient(t)
	for _, verb := range []func(context.Context) error{
		c.start, c.pause, c.resume, c.flushMetrics, c.ctrlAltDel,
		func(ctx context.Context) error { _, err := c.info(ctx); return err },
	} {
		must(t, verb(ctx))
	}
	for _, req := range wanted() {
		calls, err := translate(req, sinks{console: "/console.fifo", metrics: "/metrics"})
		must(t, err)
		must(t, c.configure(ctx, calls))
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

// The description is of a later version. What came with it would be refused by the one that metald is made for.
func TestRequestsHaveNothingOfLaterVersions(t *testing.T) {
	for _, s := range sent(t) {
		for _, later := range []string{`"emit_id"`, `"properties"`, `"Transparent"`} {
			if strings.Contains(s.Body, later) {
				t.Errorf("%s %s %s: %s is newer than %s", s.Method, s.Path, s.Body, later, pinned)
			}
		}
	}
}

// What Firecracker refuses, the contract as it is read here has to refuse as well.
func TestContractRefuses(t *testing.T) {
	doc := contract(t)
	for _, s := range []seen{
		{Method: "PUT", Path: "/nowhere", Body: `{}`},
		{Method: "PUT", Path: "/drives/", Body: `{"drive_id":"a","is_root_device":true}`},
		{Method: "PATCH", Path: "/actions", Body: `{"action_type":"InstanceStart"}`},
		{Method: "PUT", Path: "/actions", Body: `{"action_type":"InstanceStop"}`},
		{Method: "PUT", Path: "/actions", Body: `{"action_type":"InstanceStart","payload":"x"}`},
		{Method: "PUT", Path: "/machine-config", Body: `{"vcpu_count":1}`},
		{Method: "PUT", Path: "/machine-config", Body: `{"vcpu_count":33,"mem_size_mib":128}`},
		{Method: "PUT", Path: "/machine-config", Body: `{"vcpu_count":1,"mem_size_mib":128,"ht_enabled":false}`},
		{Method: "PUT", Path: "/drives/a", Body: `{"drive_id":"a","is_root_device":true,"rate_limiter":{"bytes":{}}}`},
		{Method: "PUT", Path: "/entropy", Body: `{"source":"/dev/urandom"}`},
		{Method: "GET", Path: "/version", Body: `{}`},
	} {
		if violation(doc, s) == "" {
			t.Errorf("%s %s %s is well by the contract", s.Method, s.Path, s.Body)
		}
	}
}

// The answers that the tests of the client have it read are answers that the description allows.
func TestAnswersKeepTheContract(t *testing.T) {
	doc := contract(t)
	for path, body := range map[string]string{
		"/": bodyOf(healthy(seen{Method: "GET", Path: "/"})),
	} {
		var value any
		must(t, json.Unmarshal([]byte(body), &value))
		schema := operation(doc, "GET", path).Responses.Status(200).Value.Content["application/json"].Schema
		closeSchema(schema)
		if err := schema.Value.VisitJSON(value); err != nil {
			t.Errorf("GET %s: %v", path, err)
		}
	}
	var value any
	must(t, json.Unmarshal([]byte(bodyOf(faulty("no"))), &value))
	schema := operation(doc, "PUT", "/actions").Responses.Status(400).Value.Content["application/json"].Schema
	closeSchema(schema)
	if err := schema.Value.VisitJSON(value, openapi3.VisitAsResponse()); err != nil {
		t.Errorf("a refusal: %v", err)
	}
}

func bodyOf(reply string) string {
	_, body, _ := strings.Cut(reply, "\r\n\r\n")
	return body
}
