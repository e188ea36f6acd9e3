//! How this process was started, so that a successor can be started alike.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::supervisor;

/// What the kernel appends to the name of a running executable whose file has
/// been removed or replaced (proc_pid_exe(5)).
const DELETED: &[u8] = b" (deleted)";

/// A link to the executable that is running.
const PROC_EXE: &str = "/proc/self/exe";

/// Executable, arguments and directory of this process, as they were at its
/// start.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    /// Absolute, but with its symbolic links as they were given: a deploy that
    /// switches a link must lead to the new release.
    executable: PathBuf,
    /// Without the executable.
    arguments: Vec<OsString>,
    directory: Directory,
}

/// The working directory at the start.
#[derive(Clone, Debug)]
struct Directory {
    /// `None` if it had been removed already.
    path: Option<PathBuf>,
    identity: Option<(u64, u64)>,
}

impl Invocation {
    /// Records how this process was started; to be called before the process
    /// changes its working directory.
    ///
    /// # Errors
    ///
    /// If neither the first argument nor `/proc/self/exe` tells which
    /// executable this is.
    pub(crate) fn record() -> io::Result<Self> {
        // Not `env::args`, which panics on what is not UTF-8.
        let mut arguments = std::env::args_os();
        let directory = Directory::current();
        let invoked_as = arguments.next().unwrap_or_default();
        let executable = find_executable(&invoked_as, &directory, Path::new(PROC_EXE))?;
        Ok(Invocation {
            executable,
            arguments: arguments.collect(),
            directory,
        })
    }

    /// The executable that a successor is started from.
    pub(crate) fn executable(&self) -> &Path {
        &self.executable
    }

    /// A command that starts the executable anew: arguments and directory as
    /// at our start, everything else inherited, but for what systemd meant for
    /// this process alone.
    pub(crate) fn command(&self) -> io::Result<Command> {
        self.command_of(self.executable.as_os_str(), &self.arguments)
    }

    /// The same with another program or other arguments.
    pub(crate) fn command_of(
        &self,
        program: &OsStr,
        arguments: &[OsString],
    ) -> io::Result<Command> {
        let mut command = Command::new(program);
        command.args(arguments);
        supervisor::bequeath(&mut command);
        // As long as we are where we started, inheriting the directory is more
        // faithful than its path: it works also when it has been removed.
        if Directory::current().identity != self.directory.identity {
            let path = self.directory.path.as_deref().ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotFound,
                    "the working directory it was started in had been removed",
                )
            })?;
            command.current_dir(path);
        }
        Ok(command)
    }
}

impl Directory {
    fn current() -> Self {
        Directory {
            path: std::env::current_dir().ok(),
            identity: std::fs::metadata(".").ok().map(|file| identity(&file)),
        }
    }
}

/// Finds the path a shell would have used to start this process.
fn find_executable(
    invoked_as: &OsStr,
    directory: &Directory,
    proc_exe: &Path,
) -> io::Result<PathBuf> {
    // This follows a kernel link to the very file, wherever it may be now.
    let running = std::fs::metadata(proc_exe).ok().map(|file| identity(&file));
    let linked = std::fs::read_link(proc_exe).map(without_deleted);
    let candidate = if invoked_as.as_bytes().contains(&b'/') {
        let path = Path::new(invoked_as);
        if path.is_absolute() {
            Some(path.to_owned())
        } else {
            directory.path.as_ref().map(|start| start.join(path))
        }
    } else {
        search_path(invoked_as)
    };
    // The first argument is whatever the parent liked to put there. It is
    // believed if it leads to the file that is running, or to one of the same
    // name: then the file has been replaced since. Where /proc is not mounted
    // there is nothing to compare it with, and nobody else to ask.
    let believed = candidate.filter(|path| {
        std::fs::metadata(path).is_ok_and(|file| match &linked {
            Ok(linked) => {
                Some(identity(&file)) == running
                    || (is_executable(&file) && linked.file_name() == path.file_name())
            }
            Err(_) => is_executable(&file),
        })
    });
    match believed {
        Some(path) => Ok(path),
        None => linked,
    }
}

fn search_path(name: &OsStr) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| std::fs::metadata(path).is_ok_and(|file| is_executable(&file)))
}

fn is_executable(file: &Metadata) -> bool {
    file.is_file() && file.permissions().mode() & 0o111 != 0
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn without_deleted(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let kept = bytes.strip_suffix(DELETED).unwrap_or(&bytes).to_vec();
    PathBuf::from(OsString::from_vec(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_replaced_executable_is_cleaned() {
        let clean = |path: &str| without_deleted(PathBuf::from(path));
        assert_eq!(clean("/srv/api (deleted)"), Path::new("/srv/api"));
        assert_eq!(clean("/srv/api"), Path::new("/srv/api"));
    }

    #[test]
    fn a_first_argument_that_lies_is_not_believed() {
        let directory = Directory::current();
        let running = std::env::current_exe().unwrap();
        for lie in ["", "-sh", "/bin/sh", "no/such/file"] {
            let found = find_executable(OsStr::new(lie), &directory, Path::new(PROC_EXE)).unwrap();
            assert_eq!(found, running, "told {lie:?}");
        }
    }

    #[test]
    fn without_proc_the_first_argument_is_believed_if_it_can_be_run() {
        let directory = Directory::current();
        let running = std::env::current_exe().unwrap();
        let nowhere = Path::new("/nonexistent/exe");
        let found = find_executable(running.as_os_str(), &directory, nowhere);
        assert_eq!(found.unwrap(), running);
        for lie in ["", "/", "/etc/passwd", "no/such/file"] {
            let found = find_executable(OsStr::new(lie), &directory, nowhere);
            assert!(found.is_err(), "told {lie:?}");
        }
    }

    #[test]
    fn a_symbolic_link_is_kept_as_it_was_invoked() {
        let running = std::env::current_exe().unwrap();
        let link = running.with_extension(format!("link-{}", std::process::id()));
        std::os::unix::fs::symlink(&running, &link).unwrap();
        let found = find_executable(link.as_os_str(), &Directory::current(), Path::new(PROC_EXE));
        std::fs::remove_file(&link).unwrap();
        assert_eq!(found.unwrap(), link);
    }
}
