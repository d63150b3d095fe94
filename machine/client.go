package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stilehq/stile/interop/call"
	"github.com/stilehq/stile/interop/guest"
)

// A Client is a connection to a running machine's supervisor. It takes one call
// at a time.
type Client struct {
	calls *call.Client
}

// socketLink is the symbolic link in a distro's folder that leads to the socket
// of its running machine, wherever the runtime folder of the environment that
// started it was.
const socketLink = "socket"

// Dial connects to the machine of the distro whose folder is home. The error is
// ErrNotRunning when nobody answers. The caller closes the Client.
func Dial(ctx context.Context, home string) (*Client, error) {
	path, err := os.Readlink(filepath.Join(home, socketLink))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("find socket: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, fmt.Errorf("connect to machine: %w", err)
	}
	return &Client{calls: call.NewClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.calls.Close() }

// Ready waits until the guest is up. The error is the guest's own words when it
// cannot come up.
func (c *Client) Ready(ctx context.Context) error { return c.calls.Do(ctx, callReady, nil, nil) }

// Status asks the machine for its state, and with counts for what it has done
// so far.
func (c *Client) Status(ctx context.Context, counts bool) (Status, error) {
	var s Status
	err := c.calls.Do(ctx, callStatus, statusRequest{Counts: counts}, &s)
	return s, err
}

// Stop ends the machine and returns when its last process has gone: in order,
// or at once by force.
func (c *Client) Stop(ctx context.Context, force bool) error {
	if err := c.calls.Do(ctx, callStop, stopRequest{Force: force}, nil); err != nil {
		return err
	}
	// The supervisor keeps the connection until it has nothing left to do.
	if err := c.calls.Wait(ctx); err != nil {
		return fmt.Errorf("wait for the machine's end: %w", err)
	}
	return nil
}

// Share shows a host folder in the running machine.
func (c *Client) Share(ctx context.Context, s guest.Share) error {
	return c.calls.Do(ctx, callShare, s, nil)
}

// Unshare takes a host folder away again.
func (c *Client) Unshare(ctx context.Context, s guest.Share) error {
	return c.calls.Do(ctx, callUnshare, s, nil)
}

// Links tells the running machine which host commands are on the guest's PATH.
func (c *Client) Links(ctx context.Context, names []string) error {
	return c.calls.Do(ctx, callLinks, names, nil)
}
