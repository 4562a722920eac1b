package ledger

import (
	"encoding/binary"
	"errors"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/metering/usage"
)

// row is what was used by one incarnation in one hour, and how many values were set aside in it.
type row struct {
	Amount      usage.Amount
	Quarantined uint64
}

func (r row) plus(o row) row { return row{r.Amount.Plus(o.Amount), r.Quarantined + o.Quarantined} }

// append writes a row: the sets of measured and of incomplete fields, a byte each; every quantity; values set aside.
// Numbers are in groups of 7 bits, the lowest first; the highest bit says that another follows.
func (r row) append(b []byte) []byte {
	b = append(b, byte(r.Amount.Measured), byte(r.Amount.Incomplete))
	for _, of := range r.Amount.Of {
		b = appendU128(b, of)
	}
	return binary.AppendUvarint(b, r.Quarantined)
}

func appendU128(b []byte, u usage.U128) []byte {
	for u.Hi != 0 {
		b = append(b, byte(u.Lo)|0x80)
		u.Lo = u.Lo>>7 | u.Hi<<57
		u.Hi >>= 7
	}
	return binary.AppendUvarint(b, u.Lo)
}

var errRow = errors.New("a row of the ledger is damaged")

func readRow(b []byte) (row, error) {
	var r row
	if len(b) < 2 {
		return row{}, errRow
	}
	r.Amount.Measured, r.Amount.Incomplete = usage.Set(b[0]), usage.Set(b[1])
	b = b[2:]
	for q := range r.Amount.Of {
		u, n := readU128(b)
		if n == 0 {
			return row{}, errRow
		}
		r.Amount.Of[q], b = u, b[n:]
	}
	v, n := binary.Uvarint(b)
	if n <= 0 || n != len(b) {
		return row{}, errRow
	}
	r.Quarantined = v
	return r, nil
}

// readU128 returns the number at the start of b and its length; a length of 0 says that there is none.
func readU128(b []byte) (usage.U128, int) {
	var u usage.U128
	for i := 0; i < len(b) && i < 19; i++ { // 19 groups have 128 bits
		group, shift := uint64(b[i]&0x7f), uint(7*i)
		if shift < 64 {
			u.Lo |= group << shift
			u.Hi |= group >> (64 - shift) // where shift is 0, nothing
		} else {
			u.Hi |= group << (shift - 64)
		}
		if b[i] < 0x80 {
			return u, i + 1
		}
	}
	return usage.U128{}, 0
}
