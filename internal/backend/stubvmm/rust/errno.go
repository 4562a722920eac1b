package rust

import (
	"errors"
	"fmt"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// text is what musl says of an error, where Go says something else and the stand-ins are likely to speak of it.
func text(errno syscall.Errno) string {
	switch errno {
	case syscall.EPERM:
		return "Operation not permitted"
	case syscall.ENOENT:
		return "No such file or directory"
	case syscall.EACCES:
		return "Permission denied"
	case syscall.EEXIST:
		return "File exists"
	case syscall.EBUSY:
		return "Resource busy"
	case syscall.ENOTDIR:
		return "Not a directory"
	case syscall.EISDIR:
		return "Is a directory"
	case syscall.EINVAL:
		return "Invalid argument"
	case syscall.EAGAIN:
		return "Resource temporarily unavailable"
	case syscall.ELOOP:
		return "Symbolic link loop"
	case syscall.ENAMETOOLONG:
		return "Filename too long"
	case syscall.EXDEV:
		return "Cross-device link"
	case syscall.ENOTEMPTY:
		return "Directory not empty"
	case syscall.EMFILE:
		return "No file descriptors available"
	case syscall.EADDRINUSE:
		return "Address in use"
	case syscall.ETXTBSY:
		return "Text file busy"
	case syscall.ENOMEM:
		return "Out of memory"
	}
	return capital(errno.Error())
}

// IOError is how std::io::Error says an error of the system's, such as "File exists (os error 17)".
func IOError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	return fmt.Sprintf("%s (os error %d)", text(errno), int(errno))
}

// DebugIOError is how it is printed for a programmer.
func DebugIOError(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return fmt.Sprintf("Custom { kind: Other, error: %q }", err.Error())
	}
	return fmt.Sprintf("Os { code: %d, kind: %s, message: %q }", int(errno), kind(errno), text(errno))
}

// kind is the ErrorKind of an error.
func kind(errno syscall.Errno) string {
	switch errno {
	case syscall.ENOENT:
		return "NotFound"
	case syscall.EPERM, syscall.EACCES:
		return "PermissionDenied"
	case syscall.EEXIST:
		return "AlreadyExists"
	case syscall.EADDRINUSE:
		return "AddrInUse"
	case syscall.EINVAL:
		return "InvalidInput"
	case syscall.EISDIR:
		return "IsADirectory"
	case syscall.ENOTDIR:
		return "NotADirectory"
	case syscall.EBUSY:
		return "ResourceBusy"
	case syscall.EAGAIN:
		return "WouldBlock"
	case syscall.ELOOP:
		return "FilesystemLoop"
	case syscall.EXDEV:
		return "CrossesDevices"
	}
	return "Uncategorized"
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
