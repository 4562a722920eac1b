package usage

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON writes a reading as an array with null for what is not known, so that a Meter can be kept as JSON.
func (r Reading) MarshalJSON() ([]byte, error) {
	var values [Fields]*uint64
	for f := range values {
		if r.known.Has(Field(f)) {
			values[f] = &r.values[f]
		}
	}
	return json.Marshal(values)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Reading) UnmarshalJSON(text []byte) error {
	var values []*uint64
	if err := json.Unmarshal(text, &values); err != nil {
		return err
	}
	if len(values) > Fields {
		return fmt.Errorf("a reading with %d fields; %d are known", len(values), Fields)
	}
	*r = Reading{}
	for f, v := range values {
		if v != nil {
			r.Put(Field(f), *v)
		}
	}
	return nil
}
