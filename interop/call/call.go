// Package call is a request and its answer over any connection: wire.Call with a
// JSON body, answered by wire.Answer. Everything that is not on the way of a
// command goes this way: status, stop, shares.
package call

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/stilehq/stile/interop/wire"
)

// ErrNoAnswer says that the other side went away, or gave no answer in time.
// The connection is of no more use.
var ErrNoAnswer = errors.New("no answer")

// A Conn is what a Client needs of a connection. It is net.Conn but for what
// package net would cost a guest's start.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// A Client makes calls on a connection, one at a time.
type Client struct {
	mu     sync.Mutex
	conn   Conn
	reader *wire.Reader
	broken error
}

// NewClient makes a Client of a connection whose greeting, if it needs one, has
// been sent. The Client closes it.
func NewClient(conn Conn) *Client {
	return &Client{conn: conn, reader: wire.NewReader(conn.Read)}
}

// Close closes the connection; calls under way end with ErrNoAnswer.
func (c *Client) Close() error { return c.conn.Close() }

// Do makes one call and stores its answer in *answer, which may be nil. The
// error is a *wire.Error where the other side refused, and wraps ErrNoAnswer
// where it did not answer before ctx was done.
func (c *Client) Do(ctx context.Context, name string, request, answer any) error {
	m := wire.Call{Name: name}
	if request != nil {
		body, err := json.Marshal(request)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		m.Body = body
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	a, err := c.exchange(ctx, m)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		c.broken = fmt.Errorf("%s: %w: %w", name, ErrNoAnswer, err)
		c.conn.Close()
		return c.broken
	}
	if a.Err != nil {
		return a.Err
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(a.Body, answer); err != nil {
		return fmt.Errorf("%s: answer: %w", name, err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, m wire.Call) (wire.Answer, error) {
	c.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.conn.Write(wire.AppendMessage(nil, wire.TypeCall, m.Append(nil))); err != nil {
		return wire.Answer{}, err
	}
	for {
		typ, payload, err := c.reader.Next()
		if err != nil {
			return wire.Answer{}, err
		}
		if typ != wire.TypeAnswer {
			continue // of a newer peer
		}
		var a wire.Answer
		return a, a.Parse(payload)
	}
}

// Wait returns when the other side has closed the connection, which is how it
// says that something asked for has ended, or when ctx is done.
func (c *Client) Wait(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if _, _, err := c.reader.Next(); err != nil {
			return ctx.Err()
		}
	}
}

// A Handler answers calls. A *wire.Error goes to the caller as it is, any other
// error as the reason of one. The answer is anything that JSON can hold.
type Handler func(ctx context.Context, name string, body []byte) (answer any, err error)

// Serve answers the calls on conn, one after the other, until it ends. It does
// not close conn.
func Serve(ctx context.Context, conn io.ReadWriter, handle Handler) error {
	reader := wire.NewReader(conn.Read)
	for {
		typ, payload, err := reader.Next()
		if err != nil {
			return err
		}
		if typ != wire.TypeCall {
			continue
		}
		if err := Answer(ctx, conn, payload, handle); err != nil {
			return err
		}
	}
}

// Answer answers one call whose payload has been read.
func Answer(ctx context.Context, conn io.ReadWriter, payload []byte, handle Handler) error {
	var m wire.Call
	if err := m.Parse(payload); err != nil {
		return fmt.Errorf("call: %w", err)
	}
	var a wire.Answer
	answer, err := handle(ctx, m.Name, m.Body)
	if err == nil && answer != nil {
		a.Body, err = json.Marshal(answer)
	}
	if err != nil {
		a = wire.Answer{Err: AsError(err, m.Name)}
	}
	_, err = conn.Write(wire.AppendMessage(nil, wire.TypeAnswer, a.Append(nil)))
	return err
}

// AsError makes a *wire.Error of any error: itself where it is one, else one of
// status 125 about what, with the hint of an error that has one.
func AsError(err error, what string) *wire.Error {
	var e *wire.Error
	if errors.As(err, &e) {
		return e
	}
	e = &wire.Error{Code: 125, What: what, Why: err.Error()}
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) {
		e.Hint = hinter.Hint()
	}
	return e
}
