//! The file that tells operators and supervisors which process to signal.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A PID file, prepared: its contents are on disk under another name beside
/// it, so that publishing them is a mere rename and can hardly fail.
///
/// Dropping it removes whichever of the two files is ours.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    prepared: PathBuf,
    contents: String,
    published: bool,
}

impl PidFile {
    /// Writes the process ID beside `path`.
    ///
    /// # Errors
    ///
    /// If that is not possible, or if `path` is something a file cannot be
    /// renamed over.
    pub(crate) fn prepare(path: &Path) -> Result<Self> {
        let given = path;
        let wrong = |cause| Error::pid_file(given, cause);
        let path = std::path::absolute(given).map_err(wrong)?;
        let mut name = path
            .file_name()
            .ok_or_else(|| Error::pid_file(&path, io::ErrorKind::InvalidInput.into()))?
            .to_owned();
        if path.is_dir() {
            return Err(Error::pid_file(&path, io::ErrorKind::IsADirectory.into()));
        }
        // The same name for everyone, so that a process that is killed leaves
        // no more than one behind.
        name.push(".next");
        let file = PidFile {
            prepared: path.with_file_name(name),
            path,
            contents: format!("{}\n", std::process::id()),
            published: false,
        };
        file.write().map_err(wrong)?;
        Ok(file)
    }

    fn write(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.prepared) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Not what a symbolic link of that name may lead to.
        File::create_new(&self.prepared)?.write_all(self.contents.as_bytes())
    }

    fn is_ours(&self, file: &Path) -> bool {
        std::fs::read_to_string(file).is_ok_and(|found| found == self.contents)
    }

    /// Puts the prepared file in its place, unless it is there; or puts it back
    /// there, if it is another process's.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or if the rename fails.
    pub(crate) fn publish(&mut self) -> Result<()> {
        if self.published && self.is_ours(&self.path) {
            return Ok(());
        }
        // Another process may have used the name since.
        let written = match self.is_ours(&self.prepared) {
            true => Ok(()),
            false => self.write(),
        };
        written
            .and_then(|()| std::fs::rename(&self.prepared, &self.path))
            .map_err(|cause| Error::pid_file(&self.path, cause))?;
        self.published = true;
        Ok(())
    }

    /// Publishes it if that has never been done.
    ///
    /// # Errors
    ///
    /// As of [`PidFile::publish`].
    pub(crate) fn publish_late(&mut self) -> Result<()> {
        match self.published {
            true => Ok(()),
            false => self.publish(),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // By now either may be another process's.
        let file = match self.published {
            true => &self.path,
            false => &self.prepared,
        };
        if self.is_ours(file) {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("heirloom-{name}-{}", std::process::id()))
    }

    #[test]
    fn nothing_is_at_the_path_before_it_is_published_and_after_it_is_dropped() {
        let path = place("pid");
        let mut file = PidFile::prepare(&path).unwrap();
        assert!(!path.exists());
        file.publish().unwrap();
        let pid = std::process::id();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let path = place("pid-of-successor");
        let mut file = PidFile::prepare(&path).unwrap();
        file.publish().unwrap();
        std::fs::write(&path, "1\n").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        for path in ["/nonexistent/heirloom.pid", "/tmp"] {
            let error = PidFile::prepare(Path::new(path)).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
