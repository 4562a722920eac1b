package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decode turns text into v, a field of Config, within the field's bounds.
func decode(f Field, text string, v reflect.Value) error {
	switch v.Interface().(type) {
	case string:
		return decodeString(f, text, v)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case int:
		n, err := bounded(f, text, parseInt)
		v.SetInt(int64(n))
		return err
	case time.Duration:
		d, err := bounded(f, text, parseDuration)
		v.SetInt(int64(d))
		return err
	case ByteSize:
		b, err := bounded(f, text, ParseByteSize)
		v.SetInt(int64(b))
		return err
	case []string:
		v.Set(reflect.ValueOf(splitList(text)))
	case Secret:
		v.Set(reflect.ValueOf(NewSecret(text)))
	default:
		panic("config: no decoder for the type of " + f.Name)
	}
	return nil
}

func decodeString(f Field, text string, v reflect.Value) error {
	if f.Choices != nil && !slices.Contains(f.Choices, text) {
		return fmt.Errorf("%q is none of %s", text, strings.Join(f.Choices, ", "))
	}
	optional := f.Default == ""
	if f.absolute && !filepath.IsAbs(text) && !(optional && text == "") {
		return fmt.Errorf("%q is not an absolute path", text)
	}
	if strings.ContainsRune(text, 0) {
		return fmt.Errorf("%q has a zero byte in it", text)
	}
	v.SetString(text)
	return nil
}

func bounded[T cmp.Ordered](f Field, text string, parse func(string) (T, error)) (T, error) {
	n, err := parse(text)
	if err != nil {
		return n, err
	}
	if low, err := parse(f.Min); err == nil && n < low {
		return n, fmt.Errorf("%v is less than the least allowed, %s", n, f.Min)
	}
	if high, err := parse(f.Max); err == nil && n > high {
		return n, fmt.Errorf("%v is more than the most allowed, %s", n, f.Max)
	}
	return n, nil
}

func parseInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write 500ms, 10s or 2m", text)
	}
	return d, nil
}

func splitList(text string) []string {
	var list []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// encode is decode's inverse.
func encode(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []string:
		return strings.Join(x, ",")
	case Secret:
		return x.Reveal()
	default:
		return fmt.Sprint(x)
	}
}
