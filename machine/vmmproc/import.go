package vmmproc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/stilehq/stile/interop/wire"
)

// importTar sends the tar stream that the process was started with to guestinit
// and returns its answer. There is no limit on it: the other end of the stream
// is a file of the user's, or his keyboard.
func (p *process) importTar(ctx context.Context) error {
	if p.input == nil {
		return errors.New("no archive was passed")
	}
	defer p.input.Close()
	conn, err := p.dial(ctx, wire.Hello{Kind: wire.StreamImport})
	if err != nil {
		return err
	}
	defer conn.Close()
	// The answer may come early, when guestinit can't use the archive.
	answer := make(chan error, 1)
	go func() { answer <- readAnswer(conn) }()
	if _, err := io.Copy(conn, p.input); err != nil {
		select {
		case aerr := <-answer:
			if aerr != nil {
				return aerr
			}
		default:
		}
		return fmt.Errorf("send archive: %w", err)
	}
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("send archive: %w", err)
	}
	return <-answer
}

func readAnswer(r io.Reader) error {
	typ, payload, err := wire.NewReader(r.Read).Next()
	if err != nil {
		return fmt.Errorf("unpack: the guest gave no answer: %w", err)
	}
	var a wire.Answer
	if typ != wire.TypeAnswer || a.Parse(payload) != nil {
		return errors.New("unpack: the guest's answer makes no sense")
	}
	if a.Err != nil {
		return a.Err
	}
	return nil
}
