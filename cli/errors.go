package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/stilehq/stile/distro"
	"github.com/stilehq/stile/interop/wire"
)

// hinter is an error that knows its cure.
type hinter interface{ Hint() string }

// explain turns an error into the line that is printed, the hint below it, "" if
// there is none, and the exit status.
func explain(err error) (line, hint string, status int) {
	status = exitStile
	var wired *wire.Error
	var h hinter
	var inUse *distro.InUseError
	switch {
	case errors.As(err, &wired):
		line, hint = wired.Error(), wired.Hint
		if wired.Code != 0 {
			status = int(wired.Code)
		}
	case errors.As(err, &h):
		line, hint = err.Error(), h.Hint()
	case errors.As(err, &inUse):
		line, hint = err.Error(), "a machine that runs ends by: stile stop"
	case errors.Is(err, context.Canceled):
		line = "interrupted: nothing was changed"
	default:
		line, hint = err.Error(), distro.Cure(err)
	}
	// One line, whatever an error had in it.
	line = strings.Join(strings.FieldsFunc(line, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	return line, hint, status
}
