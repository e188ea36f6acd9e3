//! The environment of a successor: what is changed in it, and what it was
//! before.
//!
//! A process cannot change its own environment without `unsafe`, and need not:
//! what a successor is started with is up to its predecessor. Changes do not
//! pile up over generations. Each successor is told what its variables were
//! before they were changed for it ([`RECORD`]), and gives its own successor
//! those, but for what is to be changed then. So a variable goes when it is
//! taken out of the file that had brought it, and one that the file had
//! replaced comes back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::legible;
use crate::supervisor;

/// All variables of this library begin like this.
const OURS: &str = "HEIRLOOM_";

/// Tells a successor which of its variables were changed for it, and what they
/// were before.
const RECORD: &str = "HEIRLOOM_ENVIRONMENT";

/// How large an environment file may be, in bytes. The system allows half of
/// that for one variable (execve(2)).
const LARGEST_FILE: u64 = 256 * 1024;

/// What is to be changed in the environment of a successor; see
/// [`Server::environment`](crate::Server::environment).
///
/// # Examples
///
/// ```
/// use heirloom::Environment;
///
/// let changes = Environment::new()
///     .set("DATABASE_URL", "postgres://db.internal/api")
///     .remove("LEGACY_MODE");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `None`: it is removed.
    changes: BTreeMap<OsString, Option<OsString>>,
}

impl Environment {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Environment::default()
    }

    /// Sets a variable. The last word on a name counts.
    pub fn set(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.changes.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a variable, which need not be there.
    pub fn remove(mut self, name: impl Into<OsString>) -> Self {
        self.changes.insert(name.into(), None);
        self
    }

    /// Reads an environment file. It may take as long as the file system does.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or not be understood: in words that name it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let named = |problem: String| {
            let path = path.display();
            format!("the environment file `{path}`{problem}")
        };
        let text = read_text(path).map_err(|error| named(format!(" cannot be read: {error}")))?;
        let read = Environment::parse(&text).map_err(|it| named(format!(", {it}")))?;
        read.check()
            .map_err(|problem| named(format!(": {problem}")))?;
        Ok(read)
    }

    /// Understands a text as systemd understands that of an `EnvironmentFile=`
    /// (systemd.exec(5)), except that it passes over what it takes for a
    /// mistake, which here is an error.
    fn parse(text: &str) -> Result<Self, Mistake> {
        let mut letters = Letters::of(text);
        let mut read = Environment::new();
        while let Some(first) = letters.skip_blank() {
            match first {
                '\n' => drop(letters.next()),
                '#' | ';' => letters.skip_line(),
                _ => {
                    let line = letters.line;
                    let name = letters.name()?;
                    let value = letters.value()?;
                    if value.contains('\0') {
                        let problem = "there is a null character in its value".to_owned();
                        return Err(Mistake { line, problem });
                    }
                    if is_reserved(OsStr::new(&name)) {
                        let problem = reserved(OsStr::new(&name));
                        return Err(Mistake { line, problem });
                    }
                    read = read.set(name, value);
                }
            }
        }
        Ok(read)
    }

    /// What another one changes is changed too, and its word counts.
    pub(crate) fn and(mut self, later: Environment) -> Self {
        self.changes.extend(later.changes);
        self
    }

    /// # Errors
    ///
    /// If there can be no such variable, or if it is not to be changed.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value) in &self.changes {
            let shown = legible(&name.to_string_lossy());
            let (bytes, value) = (name.as_bytes(), value.as_deref().unwrap_or_default());
            if bytes.is_empty() || bytes.contains(&b'=') || bytes.contains(&0) {
                return Err(format!("`{shown}` cannot be the name of a variable"));
            }
            if value.as_bytes().contains(&0) {
                return Err(format!(
                    "there is a null character in the value of `{shown}`"
                ));
            }
            if is_reserved(name) {
                return Err(reserved(name));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Environment {
    /// Without the values, some of which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |set: bool| {
            let changes = self.changes.iter();
            let changes = changes.filter(move |(_, value)| value.is_some() == set);
            changes.map(|(name, _)| name).collect::<Vec<_>>()
        };
        f.debug_struct("Environment")
            .field("set", &names(true))
            .field("removed", &names(false))
            .finish()
    }
}

/// What means something to the library or to the supervisor.
fn is_reserved(name: &OsStr) -> bool {
    name.as_bytes().starts_with(OURS.as_bytes()) || supervisor::is_theirs(name)
}

fn reserved(name: &OsStr) -> String {
    let name = name.display();
    format!("`{name}` is not to be set: the library or its supervisor uses it")
}

fn read_text(path: &Path) -> io::Result<String> {
    // What is no file could keep us waiting from here on.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    let file = std::fs::File::from(file);
    file.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        let problem = format!("it has more than {LARGEST_FILE} bytes");
        return Err(io::Error::other(problem));
    }
    String::from_utf8(text).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

/// What is wrong in an environment file.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    /// From 1.
    line: usize,
    problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// The text of an environment file, and how far it has been read.
struct Letters<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl<'a> Letters<'a> {
    fn of(text: &'a str) -> Self {
        Letters {
            rest: text.chars().peekable(),
            line: 1,
        }
    }

    fn next(&mut self) -> Option<char> {
        let mut letter = self.rest.next()?;
        if letter == '\r' {
            self.rest.next_if_eq(&'\n');
            letter = '\n';
        }
        if letter == '\n' {
            self.line += 1;
        }
        Some(letter)
    }

    /// Skips blanks; returns what comes next.
    fn skip_blank(&mut self) -> Option<char> {
        while self.rest.next_if(|it| matches!(it, ' ' | '\t')).is_some() {}
        self.rest.peek().map(|letter| match letter {
            '\r' => '\n',
            other => *other,
        })
    }

    fn skip_line(&mut self) {
        while self.next().is_some_and(|letter| letter != '\n') {}
    }

    /// Reads up to the `=`.
    fn name(&mut self) -> Result<String, Mistake> {
        let line = self.line;
        let mut name = String::new();
        loop {
            match self.next() {
                Some('=') => break,
                None | Some('\n') => {
                    // It may be a piece of a secret.
                    let problem = "it is no assignment".to_owned();
                    return Err(Mistake { line, problem });
                }
                Some(letter) => name.push(letter),
            }
        }
        let name = name.trim_end();
        let mut letters = name.chars();
        let is_letter = |it: char| it.is_ascii_alphabetic() || it == '_';
        let is_name = letters.next().is_some_and(is_letter)
            && letters.all(|it| is_letter(it) || it.is_ascii_digit());
        if !is_name {
            let problem = "what comes before the `=` is no name of a variable".to_owned();
            return Err(Mistake { line, problem });
        }
        Ok(name.to_owned())
    }

    /// Reads a value, to the end of its line, which need not be this one.
    fn value(&mut self) -> Result<String, Mistake> {
        let mut value = String::new();
        loop {
            match self.skip_blank() {
                None => return Ok(value),
                Some('\n') => {
                    self.next();
                    return Ok(value);
                }
                Some(quote @ ('"' | '\'')) => self.quoted(quote, &mut value)?,
                Some(_) => {
                    self.unquoted(&mut value);
                    return Ok(value);
                }
            }
        }
    }

    fn quoted(&mut self, quote: char, value: &mut String) -> Result<(), Mistake> {
        let line = self.line;
        self.next();
        loop {
            match self.next() {
                Some(letter) if letter == quote => return Ok(()),
                Some('\\') if quote == '"' => match self.next() {
                    Some(letter @ ('"' | '\\' | '`' | '$')) => value.push(letter),
                    Some('\n') | None => {}
                    Some(other) => value.extend(['\\', other]),
                },
                Some(letter) => value.push(letter),
                None => {
                    let problem = format!("the quote {quote} that begins here does not end");
                    return Err(Mistake { line, problem });
                }
            }
        }
    }

    /// Quotes in the middle of it are letters like others, and blanks at its
    /// end do not count.
    fn unquoted(&mut self, value: &mut String) {
        let mut kept = value.len();
        loop {
            match self.next() {
                None | Some('\n') => break,
                Some('\\') => {
                    if let Some(letter) = self.next().filter(|it| *it != '\n') {
                        value.push(letter);
                    }
                    kept = value.len();
                }
                Some(letter) => {
                    value.push(letter);
                    if !matches!(letter, ' ' | '\t') {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
    }
}

/// What the variables of this process were before they were changed for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Before {
    variables: BTreeMap<OsString, Option<OsString>>,
}

impl Before {
    /// As the predecessor has told it. What it has told about changes that it
    /// made is not true for a process that somebody else has started.
    pub(crate) fn told() -> Self {
        let told = std::env::var_os(RECORD).unwrap_or_default();
        let told: Vec<(Text, Option<Text>)> =
            serde_json::from_slice(told.as_bytes()).unwrap_or_default();
        let variables = told.into_iter();
        Before {
            variables: variables
                .map(|(name, value)| (name.into(), value.map(OsString::from)))
                .collect(),
        }
    }

    /// Whoever has started this process has given it what is in the file, if
    /// it has the same values; without the file they would not be there.
    pub(crate) fn learn(&mut self, file: &Environment) {
        for (name, value) in &file.changes {
            if value.is_some() && std::env::var_os(name) == *value {
                self.variables.insert(name.clone(), None);
            }
        }
    }

    /// Gives a command the environment that we would have without the changes
    /// that were made for us, with those that are to be made now.
    pub(crate) fn give(&self, changes: &Environment, command: &mut Command) {
        let record: Vec<(Text, Option<Text>)> = changes
            .changes
            .keys()
            .map(|name| {
                let before = match self.variables.get(name) {
                    Some(before) => before.clone(),
                    None => std::env::var_os(name),
                };
                (Text::from(name.clone()), before.map(Text::from))
            })
            .collect();
        for (name, value) in self.variables.iter().chain(&changes.changes) {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        match serde_json::to_string(&record) {
            Ok(json) if !record.is_empty() => command.env(RECORD, json),
            _ => command.env_remove(RECORD),
        };
    }

    /// The same for a command that is neither a successor nor the main process
    /// of a service.
    pub(crate) fn give_stranger(&self, changes: &Environment, command: &mut Command) {
        self.give(changes, command);
        command.env_remove(RECORD);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_reserved(name)) {
            command.env_remove(name);
        }
    }
}

/// A string of the environment, as JSON can have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Bytes(Vec<u8>),
}

impl From<OsString> for Text {
    fn from(string: OsString) -> Self {
        match string.into_string() {
            Ok(plain) => Text::Plain(plain),
            Err(other) => Text::Bytes(other.into_vec()),
        }
    }
}

impl From<Text> for OsString {
    fn from(text: Text) -> Self {
        match text {
            Text::Plain(plain) => plain.into(),
            Text::Bytes(bytes) => OsString::from_vec(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let read = Environment::parse(text).unwrap_or_else(|it| panic!("{text:?}: {it}"));
        let string = |it: OsString| it.into_string().unwrap();
        let changes = read.changes.into_iter();
        changes
            .map(|(name, value)| (string(name), string(value.unwrap())))
            .collect()
    }

    #[test]
    fn a_file_means_what_it_means_to_systemd() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=b\n", "b"),
            ("A=b\r\n", "b"),
            ("  A = b c  \n", "b c"),
            ("A=", ""),
            ("A=''", ""),
            ("A=b=c", "b=c"),
            ("A=b # c", "b # c"),
            ("# x\n; y\n\n\t\nA=b", "b"),
            ("# x \\\nA=b", "b"),
            ("A='b $c \"d\" \\e'", "b $c \"d\" \\e"),
            ("A=\"b 'c' \\\" \\$d \\` \\\\ \\e\"", "b 'c' \" $d ` \\ \\e"),
            ("A=\"b\nc\"", "b\nc"),
            ("A='b\nc'", "b\nc"),
            ("A=\"b\\\nc\"", "bc"),
            ("A=b\\\nc", "bc"),
            ("A=b\\ ", "b "),
            ("A=b\\\\c", "b\\c"),
            ("A=b\"c\"", "b\"c\""),
            ("A=\"b\" 'c' d  ", "bcd"),
            ("A=x\nA=b", "b"),
            ("A=größe", "größe"),
        ] {
            assert_eq!(
                read(text).first().cloned(),
                Some(("A".to_owned(), value.to_owned())),
                "{text:?}"
            );
        }
        assert_eq!(read("A=1\nB_2='2'\n\n_c=3"), {
            let pairs = [("A", "1"), ("B_2", "2"), ("_c", "3")];
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        assert_eq!(read("# nothing\n"), []);
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, line, words) in [
            ("A", 1, "it is no assignment"),
            ("A=b\n\nexport C=d", 3, "is no name"),
            ("A=b\n=c", 2, "is no name"),
            ("1A=b", 1, "is no name"),
            ("A-B=c", 1, "is no name"),
            ("A=b\r\nC", 2, "it is no assignment"),
            (
                "A=b\nC='d\n\ne",
                2,
                "the quote ' that begins here does not end",
            ),
            ("A=\"b\\", 1, "the quote \" that"),
            ("A=\"b\nc\"\nD", 3, "it is no assignment"),
            ("A=b\\\nc\nD", 3, "it is no assignment"),
            ("A=b\0c", 1, "null character"),
            (
                "A=b\nHEIRLOOM_PREDECESSOR=1",
                2,
                "`HEIRLOOM_PREDECESSOR` is not to be set",
            ),
            ("LISTEN_FDS=1", 1, "`LISTEN_FDS` is not to be set"),
            ("NOTIFY_SOCKET=/x", 1, "`NOTIFY_SOCKET` is not to be set"),
        ] {
            let mistake = Environment::parse(text).unwrap_err();
            assert_eq!(mistake.line, line, "{text:?}: {mistake}");
            assert!(mistake.problem.contains(words), "{text:?}: {mistake}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        let problem = || Environment::read(&path).unwrap_err();
        assert!(
            problem().ends_with("/env` cannot be read: No such file or directory (os error 2)")
        );
        std::fs::write(&path, b"A=b\nC=\xff\n").unwrap();
        assert!(problem().ends_with("/env` cannot be read: line 2 is not UTF-8"));
        std::fs::write(&path, b"A=b\nC\n").unwrap();
        assert!(problem().ends_with("/env`, line 2: it is no assignment"));
        std::fs::write(&path, vec![b'\n'; LARGEST_FILE as usize + 1]).unwrap();
        assert!(problem().ends_with("it has more than 262144 bytes"));
        std::fs::write(&path, vec![b'\n'; LARGEST_FILE as usize]).unwrap();
        assert_eq!(Environment::read(&path), Ok(Environment::new()));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR).unwrap();
        assert!(problem().ends_with("it is not a regular file"));
    }

    #[test]
    fn impossible_changes_are_refused() {
        for (changes, words) in [
            (Environment::new().set("", "b"), "cannot be the name"),
            (Environment::new().set("A=B", "b"), "cannot be the name"),
            (Environment::new().remove("A\0"), "cannot be the name"),
            (Environment::new().set("A", "b\0"), "null character"),
            (Environment::new().remove("WATCHDOG_USEC"), "not to be set"),
            (Environment::new().remove("HEIRLOOM_X"), "not to be set"),
        ] {
            let problem = changes.check().unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
        let strange = OsStr::from_bytes(b"caf\xe9");
        assert_eq!(Environment::new().set(strange, strange).check(), Ok(()));
    }

    /// What a command would find, of these variables.
    fn given(before: &Before, changes: &Environment) -> BTreeMap<OsString, Option<OsString>> {
        let mut command = Command::new("true");
        before.give(changes, &mut command);
        let given = command.get_envs();
        given
            .map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)))
            .collect()
    }

    #[test]
    fn changes_do_not_pile_up() {
        let strange = OsString::from_vec(b"\xff".to_vec());
        let path = std::env::var_os("PATH");
        let changes = Environment::new().set("PATH", "/x").set("A", &strange);
        let first = given(&Before::default(), &changes);
        assert_eq!(first["PATH".as_ref() as &OsStr], Some("/x".into()));
        // What the successor is told.
        let record = first[OsStr::new(RECORD)].clone().unwrap();
        let told: Vec<(Text, Option<Text>)> = serde_json::from_slice(record.as_bytes()).unwrap();
        let mut before = Before::default();
        for (name, value) in told {
            before.variables.insert(name.into(), value.map(Into::into));
        }
        before.variables.insert("B".into(), Some(strange.clone()));
        let second = given(&before, &Environment::new().set("C", "c"));
        assert_eq!(second[OsStr::new("PATH")], path);
        assert_eq!(second[OsStr::new("A")], None);
        assert_eq!(second[OsStr::new("B")], Some(strange));
        assert_eq!(second[OsStr::new("C")], Some("c".into()));
        // One that is changed again was before what it was before.
        let third = given(&before, &changes);
        assert_eq!(third[OsStr::new(RECORD)], first[OsStr::new(RECORD)]);
        assert_eq!(
            given(&before, &Environment::new())[OsStr::new(RECORD)],
            None
        );
    }
}
