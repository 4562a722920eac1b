package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const service = "/vmprovisioner.v1.VmService/"

// client speaks the JSON API with nothing but net/http, as any user could.
type client struct {
	base string
	http *http.Client
}

// call sends request to an RPC and decodes the answer.
func (c client) call(ctx context.Context, rpc string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	resp, err := c.post(ctx, rpc, "application/json", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", rpc, refusal(resp.Status, text))
	}
	return json.Unmarshal(text, answer)
}

func (c client) post(ctx context.Context, rpc, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+service+rpc, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentType)
	return c.http.Do(req)
}

func (c client) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	return err
}

// failure is how the Connect protocol writes an error.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refusal(status string, text []byte) error {
	var f failure
	if json.Unmarshal(text, &f) != nil || f.Code == "" {
		return fmt.Errorf("HTTP %s: %s", status, text)
	}
	return fmt.Errorf("%s: %s", f.Code, f.Message)
}

// consoleChunk is one message of StreamConsole.
type consoleChunk struct {
	Data []byte `json:"data"`
}

// streamConsole calls each with what the guest writes until ctx ends, the VM is deleted, or each returns false. The
// Connect protocol frames each message of a stream as a byte of flags, its length, and JSON.
func (c client) streamConsole(ctx context.Context, id string, each func([]byte) bool) error {
	request, err := json.Marshal(map[string]any{"vm_id": id, "follow": true})
	if err != nil {
		return err
	}
	resp, err := c.post(ctx, "StreamConsole", "application/connect+json", frame(request))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for {
		var head [5]byte
		if _, err := io.ReadFull(resp.Body, head[:]); err != nil {
			return err
		}
		message := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(resp.Body, message); err != nil {
			return err
		}
		if last := head[0]&2 != 0; last {
			return endOfStream(message)
		}
		var chunk consoleChunk
		if err := json.Unmarshal(message, &chunk); err != nil {
			return err
		}
		if !each(chunk.Data) {
			return nil
		}
	}
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func endOfStream(message []byte) error {
	var end struct {
		Error *failure `json:"error"`
	}
	if err := json.Unmarshal(message, &end); err != nil {
		return err
	}
	if end.Error != nil {
		return fmt.Errorf("StreamConsole: %s: %s", end.Error.Code, end.Error.Message)
	}
	return nil
}
