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
        let wrong = |cause| Error::pid_file(path, cause);
        let path = std::path::absolute(path).map_err(wrong)?;
        let pid = std::process::id();
        let mut name = path
            .file_name()
            .ok_or_else(|| Error::pid_file(&path, io::ErrorKind::InvalidInput.into()))?
            .to_owned();
        if path.is_dir() {
            return Err(Error::pid_file(&path, io::ErrorKind::IsADirectory.into()));
        }
        name.push(format!(".{pid}"));
        let file = PidFile {
            prepared: path.with_file_name(name),
            path,
            contents: format!("{pid}\n"),
            published: false,
        };
        File::create(&file.prepared)
            .and_then(|mut prepared| prepared.write_all(file.contents.as_bytes()))
            .map_err(|cause| Error::pid_file(&file.path, cause))?;
        Ok(file)
    }

    /// Puts the prepared file in its place.
    ///
    /// # Errors
    ///
    /// If the rename fails.
    pub(crate) fn publish(&mut self) -> Result<()> {
        if !self.published {
            std::fs::rename(&self.prepared, &self.path)
                .map_err(|cause| Error::pid_file(&self.path, cause))?;
            self.published = true;
        }
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.prepared);
        } else if std::fs::read_to_string(&self.path).is_ok_and(|found| found == self.contents) {
            // By now the file may be a successor's.
            let _ = std::fs::remove_file(&self.path);
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
