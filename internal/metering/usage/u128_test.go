package usage

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func toBig(u U128) *big.Int {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(u.Hi), 64)
	return n.Add(n, new(big.Int).SetUint64(u.Lo))
}

func drawU128(t *rapid.T, name string, most uint64) U128 {
	return U128{rapid.Uint64Range(0, most).Draw(t, name+" hi"), rapid.Uint64().Draw(t, name+" lo")}
}

func TestU128IsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawU128(t, "a", 1<<62), drawU128(t, "b", 1<<62)
		d := rapid.Uint64Range(1, 1<<64-1).Draw(t, "d")
		n := rapid.Uint64Range(0, d).Draw(t, "n")
		part := new(big.Int).Mul(toBig(a), new(big.Int).SetUint64(n))
		part.Div(part, new(big.Int).SetUint64(d))
		minus := new(big.Int).Sub(toBig(a), toBig(b))
		if minus.Sign() < 0 {
			minus.SetInt64(0)
		}
		for what, pair := range map[string][2]*big.Int{
			"plus":  {toBig(a.Plus(b)), new(big.Int).Add(toBig(a), toBig(b))},
			"minus": {toBig(a.Minus(b)), minus},
			"mul":   {toBig(Mul(a.Lo, b.Lo)), new(big.Int).Mul(new(big.Int).SetUint64(a.Lo), new(big.Int).SetUint64(b.Lo))},
			"part":  {toBig(a.Part(n, d)), part},
		} {
			if pair[0].Cmp(pair[1]) != 0 {
				t.Fatalf("%s of %s and %s (n %d, d %d) is %s, want %s", what, a, b, n, d, pair[0], pair[1])
			}
		}
		if a.String() != toBig(a).String() || a.Less(b) != (toBig(a).Cmp(toBig(b)) < 0) {
			t.Fatalf("%s is written or compared wrongly", a)
		}
	})
}

func TestU128NeverWraps(t *testing.T) {
	most := U128{^uint64(0), ^uint64(0)}
	if got := most.Plus(Of64(1)); got != most {
		t.Errorf("the most and 1 is %s", got)
	}
	tenYears, sixteenTiB := uint64(10*366*24)*Hour, uint64(16)<<40
	want := new(big.Int).Mul(new(big.Int).SetUint64(tenYears), new(big.Int).SetUint64(sixteenTiB))
	if got := Mul(tenYears, sixteenTiB); toBig(got).Cmp(want) != 0 || got.Hi == 0 {
		t.Errorf("16 TiB for 10 years is %s, want %s", got, want)
	}
}
