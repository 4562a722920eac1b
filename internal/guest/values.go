package guest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

func burnTime(s string) (time.Duration, error) {
	if s == BurnForever {
		return Forever, nil
	}
	return positive(s)
}

// positive takes "5s" and, for short, "5".
func positive(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want a duration such as 5s")
	}
	return d, nil
}

func parseBurners(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 1, fmt.Errorf("want a number of threads from 1")
	}
	return int(n), nil
}

func parseBytes(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("want a number of bytes")
	}
	return n, nil
}

func absolutePath(s string) (string, error) {
	if !path.IsAbs(s) {
		return WriteFile, fmt.Errorf("want an absolute path")
	}
	return s, nil
}

func oneOf(s, fallback string, allowed ...string) (string, error) {
	if slices.Contains(allowed, s) {
		return s, nil
	}
	return fallback, fmt.Errorf("want one of %s", strings.Join(allowed, ", "))
}
