package rust

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

type colour string

func (colour) Variants() []string { return []string{"Red", "Green"} }

type bucket struct {
	_    struct{} `serde:"open"`
	Size uint64   `json:"size"`
}

type thing struct {
	Name   string  `json:"name"`
	Count  uint8   `json:"count" serde:"default"`
	Colour *colour `json:"colour"`
	Bucket *bucket `json:"bucket"`
	Tags   []Path  `json:"tags" serde:"default"`
}

func TestDecode(t *testing.T) {
	var got thing
	const text = "{\"name\":\"a\\u00e9\", \"count\":255,\n\"colour\":\"Green\",\"bucket\":{\"size\":7,\"more\":[{\"x\":null}]},\"tags\":[\"/a\",\"b\"]}\n"
	if err := Decode([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	green := colour("Green")
	want := thing{Name: "aé", Count: 255, Colour: &green, Bucket: &bucket{Size: 7}, Tags: []Path{"/a", "b"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(bucket{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Decode([]byte(`{"name":"a","colour":null}`), &got); err != nil {
		t.Error(err)
	}
}

func TestWhatDecodeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "EOF while parsing a value at line 1 column 0",
		"{\n\"name\":5}":                "invalid type: integer `5`, expected a string at line 2 column 8",
		`{"name":"a","bucket":{}}`:      "missing field `size` at line 1 column 23",
		`{"name":"a","colour":"Blue"}`:  "unknown variant `Blue`, expected `Red` or `Green` at line 1 column 27",
		`{"name":"a","tags":["x",]}`:    "trailing comma at line 1 column 25",
		`{"name":"a","tags":["x" "y"]}`: "expected `,` or `]` at line 1 column 25",
		`{"name":"a","tags":[5]}`:       "invalid type: integer `5`, expected path string at line 1 column 21",
		`{"name":"a","nom":1}`:          "unknown field `nom`, expected one of `name`, `count`, `colour`, `bucket`, `tags` at line 1 column 17",
		`{"name":"a","count":256}`:      "invalid value: integer `256`, expected u8 at line 1 column 23",
		"{\"name\":\"a\x01\"}":          "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 10",
	} {
		var got thing
		if err := Decode([]byte(text), &got); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","count":1,"bucket":{"size":1,"x":[1]},"tags":["a"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got thing
		_ = Decode(text, &got) // it must come back
	})
}

func TestParseArgs(t *testing.T) {
	known := []Arg{{Name: "a", Value: true, Required: true}, {Name: "b"}, {Name: "c", Value: true, Multiple: true}, {Name: "d", Forbids: "b"}}
	a, err := ParseArgs(known, []string{"--a", "1", "--c", "2", "--c", "-3", "--b", "--", "--d"})
	if err != nil || a.Get("a") != "1" || !a.Has("b") || a.Has("d") || len(a.All("c")) != 2 || len(a.Extra) != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := ParseArgs(known, []string{"--a", "1", "--b", "--d"}); err == nil || err.Debug() != `ForbiddenArgument("d", "b")` {
		t.Errorf("%v", err)
	}
}
