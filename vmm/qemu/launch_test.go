package qemu

import "testing"

// What QEMU says of its end, and whether that is an end of the guest's own.
func TestReasonError(t *testing.T) {
	for why, want := range map[string]string{
		"guest-reset":    "",
		"guest-shutdown": "",
		"host-qmp-quit":  "",
		"host-signal":    "QEMU was ended by a signal",
		"":               "QEMU ended and did not say why",
		"guest-panic":    "QEMU ended: guest-panic",
		"host-error":     "QEMU ended: host-error",
	} {
		got := ""
		if err := reasonError(why); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", why, got, want)
		}
	}
}
