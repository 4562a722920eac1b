package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/backend/types"
	"github.com/unkeyed/unkey/go/deploy/metald/internal/vm/lifecycle"
)

// A page token is base64url of: version (1 byte), states of the filter (1 byte, a bit each), Seq of the last VM of
// the page before (8 bytes, big endian), and a check over those (8 bytes). It holds a place in the order of creation
// and nothing else, so VMs may come and go between pages and metald may restart.
//
// The check finds damage and tokens of another making. It is no secret: whoever may list can list everything, so a
// token that was made up on purpose shows nothing that a filter would not.
const (
	pageTokenVersion = 1
	pageTokenBytes   = 1 + 1 + 8 + 8
)

func pageToken(after uint64, states []lifecycle.State) string {
	token := make([]byte, 0, pageTokenBytes)
	token = append(token, pageTokenVersion, stateBits(states))
	token = binary.BigEndian.AppendUint64(token, after)
	check := pageTokenCheck(token)
	return base64.RawURLEncoding.EncodeToString(append(token, check[:]...))
}

// parsePageToken returns the Seq that a token carries, 0 for the empty token of the first page.
func parsePageToken(text string, states []lifecycle.State) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(token) != pageTokenBytes || token[0] != pageTokenVersion {
		return 0, badPageToken("is not a token of ListVms; take next_page_token as it came, or leave it out to start over")
	}
	body, check := token[:pageTokenBytes-8], pageTokenCheck(token[:pageTokenBytes-8])
	if subtle.ConstantTimeCompare(check[:], token[pageTokenBytes-8:]) != 1 {
		return 0, badPageToken("is not a token of ListVms; take next_page_token as it came, or leave it out to start over")
	}
	if body[1] != stateBits(states) {
		return 0, badPageToken("belongs to a list with another state_filter; leave it out to start over")
	}
	return binary.BigEndian.Uint64(body[2:]), nil
}

func badPageToken(what string) error {
	return types.FieldErrorf(types.KindInvalid, "page_token", "%s", what)
}

func pageTokenCheck(body []byte) [8]byte {
	sum := sha256.Sum256(append([]byte("metald ListVms page\x00"), body...))
	return [8]byte(sum[:8])
}

// stateBits is the filter as a set, whatever its order.
func stateBits(states []lifecycle.State) byte {
	var bits byte
	for _, s := range states {
		bits |= 1 << s
	}
	return bits
}
