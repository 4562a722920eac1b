package main

import (
	"fmt"
	"runtime/debug"
)

// buildVersion is "metald v1.2.3 (commit 0123abc, modified) go1.26.0 linux/amd64", from what the linker noted.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "metald, built in a way that left no notes"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit := settings["vcs.revision"]
	if commit == "" {
		commit = "unknown"
	}
	if settings["vcs.modified"] == "true" {
		commit += ", modified"
	}
	return fmt.Sprintf("metald %s (commit %s) %s %s/%s", info.Main.Version, commit, info.GoVersion, settings["GOOS"], settings["GOARCH"])
}
