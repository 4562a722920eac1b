package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// Choices is what the rest of the program contributes to the settings.
type Choices struct {
	Backends []string // names of the backends in this build
}

// Field is one setting as its tags describe it.
type Field struct {
	Name     string // as a flag has it, without the dash
	Env      string // as the environment has it
	Default  string
	Doc      string
	Type     string   // for people: "bool", "duration" …
	Choices  []string // nil: any
	Min, Max string   // "": no bound
	Secret   bool
	absolute bool
	index    int
}

// Fields lists the settings in the order of Config.
func Fields(choices Choices) []Field { return metald().fieldsOf(reflect.TypeFor[Config](), choices) }

func (p program) fieldsOf(t reflect.Type, choices Choices) []Field {
	fields := make([]Field, t.NumField())
	for i := range fields {
		tag := t.Field(i).Tag
		name := tag.Get("name")
		fields[i] = Field{
			Name:     name,
			Env:      p.env(name),
			Default:  tag.Get("default"),
			Doc:      tag.Get("doc"),
			Type:     typeName(t.Field(i).Type),
			Choices:  expand(tag.Get("oneof"), choices),
			Min:      tag.Get("min"),
			Max:      tag.Get("max"),
			Secret:   t.Field(i).Type == reflect.TypeFor[Secret](),
			absolute: tag.Get("abs") == "true",
			index:    i,
		}
	}
	return fields
}

// EnvName is the rule between flags and the environment: state-dir is UNKEY_METALD_STATE_DIR.
func EnvName(flag string) string { return program{prefix: Prefix}.env(flag) }

func expand(oneof string, choices Choices) []string {
	if oneof == "" {
		return nil
	}
	list := strings.Split(oneof, ",")
	if i := slices.Index(list, "@backends"); i >= 0 {
		list = slices.Replace(list, i, i+1, choices.Backends...)
	}
	return list
}

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[ByteSize]():
		return "size"
	case reflect.TypeFor[Secret]():
		return "secret"
	case reflect.TypeFor[[]string]():
		return "list"
	}
	return t.Kind().String()
}
