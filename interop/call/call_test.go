package call

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

func pair(t *testing.T, handle Handler) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		Serve(t.Context(), theirs, handle)
		theirs.Close()
	}()
	c := NewClient(ours)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDo(t *testing.T) {
	c := pair(t, func(_ context.Context, name string, body []byte) (any, error) {
		switch name {
		case "double":
			var n int
			if err := json.Unmarshal(body, &n); err != nil {
				return nil, err
			}
			return 2 * n, nil
		case "refuse":
			return nil, &wire.Error{Code: 126, What: "x", Why: "no", Hint: "ask"}
		}
		return nil, errors.New("unknown call")
	})
	for range 3 {
		var n int
		if err := c.Do(t.Context(), "double", 21, &n); err != nil || n != 42 {
			t.Fatalf("double: %d, %v", n, err)
		}
	}
	var e *wire.Error
	if err := c.Do(t.Context(), "refuse", nil, nil); !errors.As(err, &e) || *e != (wire.Error{Code: 126, What: "x", Why: "no", Hint: "ask"}) {
		t.Errorf("refuse: %v", err)
	}
	if err := c.Do(t.Context(), "other", nil, nil); !errors.As(err, &e) || e.Code != 125 || e.Error() != "other: unknown call" {
		t.Errorf("other: %v", err)
	}
}

func TestNoAnswer(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c := pair(t, func(context.Context, string, []byte) (any, error) {
		<-release
		return nil, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "stuck", nil, nil); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stuck: %v", err)
	}
	// A late answer must not be taken for that of a later call.
	if err := c.Do(t.Context(), "later", nil, nil); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("later: %v", err)
	}
}
