package eventfd

import (
	"errors"
	"testing"
	"time"
)

// TestWaits holds both ways to wait to the same: each signal wakes, those that
// came before are not lost, and Interrupt ends the present and later waits
// until Resume.
func TestWaits(t *testing.T) {
	for name, wait := range map[string]func(*EventFD) error{
		"Wait": (*EventFD).Wait, "WaitThread": (*EventFD).WaitThread,
	} {
		t.Run(name, func(t *testing.T) {
			e, err := New()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := e.Close(); err != nil {
					t.Error(err)
				}
			}()
			begin := func() <-chan error {
				done := make(chan error, 1)
				go func() { done <- wait(e) }()
				return done
			}
			end := func(done <-chan error, want error) {
				t.Helper()
				select {
				case err := <-done:
					if !errors.Is(err, want) {
						t.Errorf("the wait ended with %v, want %v", err, want)
					}
				case <-time.After(5 * time.Second):
					t.Fatalf("still waiting, want %v", want)
				}
			}
			signal := func() {
				t.Helper()
				if err := e.Signal(); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 200 {
				early := i%2 == 0 // before the wait, or while it is on its way
				if early {
					signal()
				}
				done := begin()
				if !early {
					signal()
				}
				end(done, nil)
			}
			for i := range 200 {
				done := begin()
				if i%2 == 0 {
					time.Sleep(time.Millisecond) // in the wait, as a rule
				}
				if err := e.Interrupt(); err != nil {
					t.Fatal(err)
				}
				end(done, ErrInterrupted)
				end(begin(), ErrInterrupted)
				if err := e.Resume(); err != nil {
					t.Fatal(err)
				}
				signal()
				end(begin(), nil)
			}
		})
	}
}
