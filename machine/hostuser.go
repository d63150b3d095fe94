package machine

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/stilehq/stile/interop/guest"
)

// hostUser is the user who runs this, as the guest shall know him.
func hostUser(home string) (guest.User, error) {
	u, err := user.Current()
	if err != nil {
		return guest.User{}, fmt.Errorf("find user: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return guest.User{}, fmt.Errorf("find user: %w", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return guest.User{}, fmt.Errorf("find user: %w", err)
	}
	group := u.Username
	if g, err := user.LookupGroupId(u.Gid); err == nil {
		group = g.Name
	}
	return guest.User{Name: u.Username, UID: uint32(uid), GID: uint32(gid), Group: group,
		Home: home, Shell: os.Getenv("SHELL")}, nil
}
