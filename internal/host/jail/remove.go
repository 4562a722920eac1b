package jail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/unkeyed/unkey/go/deploy/metald/internal/host/dir"
)

// maxStack is how often the list of mounts is read anew, for mounts that others hid.
const maxStack = 16

// Remove removes the directory of a jail, <base>/<executable's name>/<id>, with all that is in it, and unmounts first
// what is mounted there. It follows no link and enters no other file system, whatever the VMM left behind. No process
// of the jail is alive. A jail that is not there is no error, and one that was removed in part is removed by the next
// call, or by SweepTrash.
func Remove(ctx context.Context, path string) error {
	if err := unmountAll(ctx, path); err != nil {
		return fmt.Errorf("remove jail: %w", err)
	}
	if err := dir.RemoveContext(ctx, path); err != nil {
		return fmt.Errorf("remove jail: %w", err)
	}
	return nil
}

// unmountAll unmounts what is mounted at path and below.
func unmountAll(ctx context.Context, path string) error {
	var failed error
	for range maxStack {
		points, err := dir.Mounts(path)
		if err != nil {
			return err
		}
		if len(points) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		failed = nil
		for _, point := range slices.Backward(points) {
			if err := unmountAt(filepath.Dir(path), point); err != nil {
				failed = errors.Join(failed, &os.PathError{Op: "unmount", Path: point, Err: err})
			}
		}
	}
	return errors.Join(failed, dir.ErrMounted)
}

// unmountAt unmounts point, which is below top: what the VMM's user can rename is between them.
func unmountAt(top, point string) error {
	rel, err := filepath.Rel(top, filepath.Dir(point))
	if err != nil {
		return err
	}
	from, err := openTop(top)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	// Through mounts, unlike anything else: they are what is to go.
	at, err := unix.Openat2(from, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: beneath &^ unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unmount(at, filepath.Base(point))
}
