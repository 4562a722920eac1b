package usage

import (
	"fmt"
	"math/big"
	"math/bits"
)

// U128 is an unsigned integer of 128 bits. Byte-nanoseconds need it: 64 bits are full after 69 s of 256 MiB.
type U128 struct{ Hi, Lo uint64 }

// Of64 is n as a U128.
func Of64(n uint64) U128 { return U128{Lo: n} }

// Mul returns a times b.
func Mul(a, b uint64) U128 {
	hi, lo := bits.Mul64(a, b)
	return U128{hi, lo}
}

// Plus returns u + v, and the largest U128 where that is beyond it: 16 TiB held for 10 years need 103 bits.
func (u U128) Plus(v U128) U128 {
	lo, carry := bits.Add64(u.Lo, v.Lo, 0)
	hi, carry := bits.Add64(u.Hi, v.Hi, carry)
	if carry != 0 {
		return U128{^uint64(0), ^uint64(0)}
	}
	return U128{hi, lo}
}

// Minus returns u - v, and 0 where v is larger.
func (u U128) Minus(v U128) U128 {
	lo, borrow := bits.Sub64(u.Lo, v.Lo, 0)
	hi, borrow := bits.Sub64(u.Hi, v.Hi, borrow)
	if borrow != 0 {
		return U128{}
	}
	return U128{hi, lo}
}

// Less says whether u < v.
func (u U128) Less(v U128) bool { return u.Hi < v.Hi || u.Hi == v.Hi && u.Lo < v.Lo }

// Max returns the larger of u and v.
func (u U128) Max(v U128) U128 {
	if u.Less(v) {
		return v
	}
	return u
}

// Part returns u * n / d, rounded down, for n <= d and d > 0.
func (u U128) Part(n, d uint64) U128 {
	qHi, r := u.Hi/d, u.Hi%d
	qLo, r := bits.Div64(r, u.Lo, d)
	hi, lo := bits.Mul64(qLo, n)
	whole := U128{hi + qHi*n, lo} // u = q*d + r, so u*n/d = q*n + r*n/d; no more than u
	restHi, restLo := bits.Mul64(r, n)
	rest, _ := bits.Div64(restHi, restLo, d)
	return whole.Plus(Of64(rest))
}

// IsZero says whether u is 0.
func (u U128) IsZero() bool { return u == U128{} }

// String is u in decimal.
func (u U128) String() string {
	if u.Hi == 0 {
		return fmt.Sprint(u.Lo)
	}
	n := new(big.Int).Lsh(new(big.Int).SetUint64(u.Hi), 64)
	return n.Or(n, new(big.Int).SetUint64(u.Lo)).String()
}
