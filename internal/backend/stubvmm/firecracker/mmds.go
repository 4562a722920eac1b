package firecracker

import "net/netip"

// Instance metadata. The guest never asks for them.

func (v *vmm) mmdsCall(raw []byte) (call, error) {
	v.metrics.inc("put_api_requests.mmds_count")
	b, err := body[mmdsConfig](v, raw, "")
	if err != nil {
		v.metrics.inc("put_api_requests.mmds_fails")
		return call{}, err
	}
	c := call{do: func() (any, error) { return nil, v.setMMDSConfig(b) }}
	if b.Version != "V2" {
		v.metrics.inc("deprecated_api.deprecated_http_api_calls")
		c.deprecated = "PUT /mmds/config: V1 is deprecated. Use V2 instead."
	}
	return c, nil
}

func (v *vmm) setMMDSConfig(c mmdsConfig) error {
	const refused = "MMMDS config error: "
	if err := v.preBoot(); err != nil {
		return err
	}
	v.bootPath = true
	switch {
	case c.IPv4Address != nil && !c.IPv4Address.IsLinkLocalUnicast():
		return faultf("%sThe MMDS IPv4 address is not link local.", refused)
	case len(c.NetworkInterfaces) == 0:
		return faultf("%sThe list of network interface IDs that allow forwarding MMDS requests is empty.", refused)
	}
	for _, id := range c.NetworkInterfaces {
		if v.networkIndex(id) < 0 {
			return faultf("%sThe list of network interface IDs provided contains at least one ID that does not correspond to any existing network interface.", refused)
		}
	}
	if c.IPv4Address == nil {
		c.IPv4Address = &ipv4Addr{netip.AddrFrom4([4]byte{169, 254, 169, 254})}
	}
	if c.Version == "" {
		c.Version = "V1"
	}
	v.mmds = &c
	return nil
}

// haveMMDS: a machine that was started without metadata has none for ever.
func (v *vmm) haveMMDS() error {
	if v.state != notStarted && v.mmds == nil {
		return faultf("MMDS error: The MMDS data store is not initialized.")
	}
	return nil
}

func (v *vmm) getMMDS() (any, error) {
	if err := v.haveMMDS(); err != nil {
		return nil, err
	}
	if v.mmdsData == nil {
		return struct{}{}, nil
	}
	return v.mmdsData, nil
}

func (v *vmm) putMMDS(data any) error {
	if err := v.haveMMDS(); err != nil {
		return err
	}
	if len(toJSON(data)) > v.mmdsMax {
		f := faultf("MMDS limit exceeded error: The MMDS patch request doesn't fit.")
		f.Status = 413
		return f
	}
	v.mmdsData = data
	return nil
}

func (v *vmm) patchMMDS(data any) error {
	if err := v.haveMMDS(); err != nil {
		return err
	}
	if v.mmdsData == nil {
		return faultf("MMDS error: The MMDS data store is not initialized.")
	}
	return v.putMMDS(merge(v.mmdsData, data))
}

// merge is RFC 7396: an object's values replace those of the same name, and null takes one away.
func merge(old, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	merged := map[string]any{}
	if o, ok := old.(map[string]any); ok {
		for k, v := range o {
			merged[k] = v
		}
	}
	for k, v := range p {
		if v == nil {
			delete(merged, k)
		} else {
			merged[k] = merge(merged[k], v)
		}
	}
	return merged
}
