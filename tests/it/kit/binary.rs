//! Executables: the examples, and copies of them to be damaged and replaced.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::Fake;

/// Held for reading while a process is started and for writing while an
/// executable is written.
///
/// A child has copies of all our descriptors until it calls `exec`. One that is
/// started while an executable is open for writing would therefore keep that
/// executable from being run (`ETXTBSY`).
static WRITING: RwLock<()> = RwLock::new(());

/// Keeps executables from being written; see [`WRITING`].
pub(super) fn starting_a_process() -> RwLockReadGuard<'static, ()> {
    // A test that failed with the lock held does not concern the others.
    WRITING.read().unwrap_or_else(PoisonError::into_inner)
}

fn writing_an_executable() -> RwLockWriteGuard<'static, ()> {
    WRITING.write().unwrap_or_else(PoisonError::into_inner)
}

/// Where cargo has put an example.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = profile().join("examples").join(name);
    let built = modified(&path).unwrap_or_else(|| {
        panic!("{} is missing; {HOW_TO_BUILD}", path.display());
    });
    // Without this, a change of the library would seem to have no effect.
    // Cargo has noted beside the executable what it was made from.
    let sources = fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    let sources = sources.split_ascii_whitespace().skip(1).map(Path::new);
    // The documents among them change nothing, and tests can write them anew.
    let mut sources = sources.filter(|source| source.extension().is_none_or(|it| it != "md"));
    if let Some(source) = sources.find(|source| modified(source) > Some(built)) {
        let (path, source) = (path.display(), source.display());
        panic!("{path} is older than {source}; {HOW_TO_BUILD}");
    }
    path
}

/// Where cargo has put the command, which it builds before the tests.
pub(super) fn command() -> PathBuf {
    profile().join("heirloom")
}

/// Puts the command where it can be run from `path`, too.
pub(crate) fn copy_command(path: &Path) {
    let _writing = writing_an_executable();
    fs::copy(command(), path).unwrap();
}

/// Not from `env!`: the tests may run on another machine than they were built
/// on.
fn profile() -> PathBuf {
    let tests = std::env::current_exe().expect("/proc is there");
    let profile = tests.parent().and_then(Path::parent);
    profile.expect("target/<profile>/deps").to_owned()
}

const HOW_TO_BUILD: &str =
    "`cargo test` builds the examples, `cargo test --test it` does not: `cargo build --examples`";

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// The Rust files in a directory and below, but none that cargo has put there.
pub(crate) fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The executable of one service, in the directory of its test.
pub(crate) struct Binary {
    path: PathBuf,
}

impl Binary {
    /// Puts the `api` example at `path`.
    pub(crate) fn api(path: PathBuf) -> Self {
        let binary = Binary { path };
        binary.replace_with(&example("api"));
        binary
    }

    /// Puts the command at `path`.
    pub(crate) fn command(path: PathBuf) -> Self {
        let binary = Binary { path };
        binary.replace_with(&command());
        binary
    }

    /// Puts a link to the `api` example at `path`, which is quicker than a
    /// copy, and enough for those that damage nothing.
    pub(crate) fn link(path: PathBuf) -> Self {
        let binary = Binary { path };
        binary.link_to("api");
        binary
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it a link to an example, in one step.
    pub(crate) fn link_to(&self, name: &str) {
        let fresh = self.fresh();
        symlink(example(name), &fresh).unwrap();
        fs::rename(&fresh, &self.path).unwrap();
    }

    pub(crate) fn remove(&self) {
        fs::remove_file(&self.path).unwrap();
    }

    /// Puts the `api` example where it was, or where something else is now.
    pub(crate) fn restore(&self) {
        self.replace_with(&example("api"));
    }

    pub(crate) fn replace_with_fake(&self, fake: Fake) {
        fs::write(Fake::file(&self.path), fake.name()).unwrap();
        self.replace_with(&example("fake_successor"));
    }

    pub(super) fn link_to_fake(&self, fake: Fake) {
        fs::write(Fake::file(&self.path), fake.name()).unwrap();
        self.link_to("fake_successor");
    }

    /// Puts a text in the place of the executable, as a botched deploy does.
    pub(crate) fn replace_with_text(&self, text: &str, mode: u32) {
        let fresh = self.fresh();
        let _lock = writing_an_executable();
        fs::write(&fresh, text).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&fresh, &self.path).unwrap();
    }

    /// Does something while the executable is written, as by a careless deploy
    /// that has removed it and copies the new one to its place.
    pub(crate) fn while_it_is_written<T>(&self, act: impl FnOnce() -> T) -> T {
        // A new file, because one that runs cannot be opened for writing.
        self.restore();
        let _lock = writing_an_executable();
        let _writer = fs::OpenOptions::new()
            .append(true)
            .open(&self.path)
            .unwrap();
        act()
    }

    /// Puts a new file in the place of the executable in one step, as a careful
    /// deploy does.
    fn replace_with(&self, source: &Path) {
        let fresh = self.fresh();
        {
            // A copy, not a hard link: renaming one link of a file over another
            // does nothing at all.
            let _lock = writing_an_executable();
            fs::copy(source, &fresh).unwrap();
        }
        fs::rename(&fresh, &self.path).unwrap();
    }

    fn fresh(&self) -> PathBuf {
        self.path.with_extension("fresh")
    }
}
