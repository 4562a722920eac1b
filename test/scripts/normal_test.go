// Package scripts runs scripts of API calls against the real metald, on every VMM: whatever a VM is on, the same calls
// get the same answers.
package scripts

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// unlike are the values that differ from VMM to VMM, or from run to run, and what stands for each in a transcript. A key
// that is there in one transcript must be there in all: only its value is not compared.
var unlike = map[string]string{
	"backend":           "<backend>",
	"vmm":               "<vmm>",
	"vmm_version":       "<version>",
	"pid":               "<pid>",
	"createdTimestamp":  "<time>",
	"modifiedTimestamp": "<time>",
	"exited_at":         "<time>",
	"nextPageToken":     "<token>",    // it names the last VM of the page by how many there were before
	"metrics":           "<measured>", // what is measured is for other tests; that it is, and when, is for these
}

var (
	// A random id, which only a create that was sent none makes.
	randomID = regexp.MustCompile(`\bvm-[a-z0-9]{26}\b`)
	// Why a backend cannot do something, and what it can, is its own.
	ownReason = regexp.MustCompile(`(is not supported by the backend )\w+.*$`)
)

// normaliser makes an answer comparable.
type normaliser struct {
	names *strings.Replacer // paths to the variables that scripts have for them
}

func newNormaliser(variables map[string]string) normaliser {
	var pairs []string
	names := slices.Collect(maps.Keys(variables))
	slices.SortFunc(names, func(a, b string) int { return len(variables[b]) - len(variables[a]) }) // what is below another comes first
	for _, name := range names {
		pairs = append(pairs, variables[name], "$"+name)
	}
	return normaliser{strings.NewReplacer(pairs...)}
}

// answer is what stands in a transcript for the body of an answer: JSON with sorted keys, or an error's code, message and
// details.
func (n normaliser) answer(body []byte) (string, error) {
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return "", fmt.Errorf("the answer %q: %w", body, err)
	}
	if code, ok := fields["code"].(string); ok {
		return n.fault(code, fields), nil
	}
	text, err := marshal(n.value("", fields))
	return text, err
}

// fault has a line for the error, and one for each detail.
func (n normaliser) fault(code string, fields map[string]any) string {
	message, _ := fields["message"].(string)
	lines := []string{code + ": " + n.text(message)}
	details, _ := fields["details"].([]any)
	for _, d := range details {
		detail, _ := d.(map[string]any)
		debug, _ := marshal(n.value("", detail["debug"])) // the same as its value, which is the detail in binary
		lines = append(lines, fmt.Sprintf("  %v %s", detail["type"], debug))
	}
	return strings.Join(lines, "\n")
}

// marshal leaves < and > as they are.
func marshal(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

func (n normaliser) value(key string, v any) any {
	if instead, ok := unlike[key]; ok {
		return instead
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, value := range v {
			out[k] = n.value(k, value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = n.value("", value)
		}
		return out
	case string:
		return n.text(v)
	}
	return v
}

func (n normaliser) text(s string) string {
	s = n.names.Replace(s)
	s = randomID.ReplaceAllString(s, "<id>")
	return ownReason.ReplaceAllString(s, "$1<backend><why>")
}
