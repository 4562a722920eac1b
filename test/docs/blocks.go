// Package docs tests what the documentation tells people to type. Blocks of shell code that are marked run are run
// as they stand, one document after the other, against a real metald; JSON blocks are requests and are decoded as
// strictly as metald does.
//
//	```sh run      is run; what it calls must succeed
//	```sh          is shown only
//	```json        is a CreateVmRequest
//	```json X      is a message X of vmprovisioner.v1, or one by its full name
package docs

import (
	"fmt"
	"strings"
)

// block is one fenced block of a document.
type block struct {
	line int    // of its first line
	info string // what stands behind the fence
	text string
}

// blocks finds the fenced blocks of a Markdown text.
func blocks(text string) ([]block, error) {
	var found []block
	var open *block
	for i, line := range strings.SplitAfter(text, "\n") {
		info, fence := strings.CutPrefix(strings.TrimRight(line, " \n"), "```")
		switch {
		case open == nil && fence:
			open = &block{line: i + 2, info: info}
		case open != nil && fence && info == "":
			found, open = append(found, *open), nil
		case open != nil && fence:
			return nil, fmt.Errorf("line %d: a block begins inside the one that begins at line %d", i+1, open.line)
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		return nil, fmt.Errorf("the block that begins at line %d does not end", open.line)
	}
	return found, nil
}
