package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stilehq/stile/distro"
)

// What packageScript ends with.
const (
	packageUnknown = 3 // the package is not installed
	managerUnknown = 4 // stile does not know the distro's package manager
)

// packageScript prints the paths of the programs of an installed package. What
// update-alternatives leads to one of them counts: vim is such a link.
const packageScript = `
if command -v dpkg >/dev/null; then
	files=$(dpkg -L "$1" 2>/dev/null) || exit 3
elif command -v rpm >/dev/null; then
	files=$(rpm -ql "$1" 2>/dev/null) || exit 3
elif command -v apk >/dev/null; then
	apk info -e "$1" >/dev/null || exit 3
	files=$(apk info -qL "$1" | sed 's|^|/|')
elif command -v pacman >/dev/null; then
	files=$(pacman -Qlq "$1" 2>/dev/null) || exit 3
else
	exit 4
fi
printf '%s\n' "$files" | while IFS= read -r f; do
	case $f in
	/bin/*/* | /sbin/*/* | /usr/bin/*/* | /usr/sbin/*/*) ;;
	/bin/* | /sbin/* | /usr/bin/* | /usr/sbin/* | /usr/local/bin/* | /usr/local/sbin/* | /usr/games/*)
		[ -f "$f" ] && [ -x "$f" ] && printf '%s\0' "$f" ;;
	esac
done
if command -v update-alternatives >/dev/null; then
	update-alternatives --get-selections 2>/dev/null | while read -r name _ target; do
		case "
$files
" in
		*"
$target
"*) case $target in */bin/* | */sbin/* | */games/*) p=$(command -v "$name") && [ "${p##*/}" = "$name" ] && printf '%s\0' "$p" ;; esac ;;
		esac
	done
fi
exit 0`

// packageCommands are the commands of an installed package of a distro, in
// alphabetical order.
func packageCommands(ctx context.Context, app *app, d *distro.Distro, name string) ([]string, error) {
	what := "--package " + name
	if name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, "\x00\n") {
		return nil, linkError(fmt.Sprintf("--package %q", name), "that is no package's name", "")
	}
	out, status, err := app.guestOutput(ctx, d, packageScript, name)
	if err != nil {
		return nil, err
	}
	switch status {
	case 0:
	case packageUnknown:
		return nil, linkError(what, "the package is not installed in "+d.Name, fmt.Sprintf("look there: stile shell -d %s -u root", d.Name))
	case managerUnknown:
		return nil, linkError(what, "stile does not know the package manager of "+d.Name, "name the commands: stile link COMMAND...")
	default:
		return nil, linkError(what, fmt.Sprintf("asking %s failed with status %d", d.Name, status), "")
	}
	names := commandNames(out)
	if len(names) == 0 {
		return nil, linkError(what, "the package has no commands", "")
	}
	slices.Sort(names)
	return names, nil
}
