//! Rules of this repository that nobody should have to remember.

use std::fs;
use std::path::PathBuf;

use crate::kit::rust_files;

fn root() -> PathBuf {
    // Not `env!`: the tests may run on another machine than they were built on.
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), PathBuf::from)
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_example_of_the_readme_is_hello() {
    let readme = read("README.md");
    let block = readme
        .split("```rust\n")
        .nth(1)
        .expect("the README has a Rust block");
    let (block, _) = block.split_once("```").expect("the block ends");
    assert_eq!(block, read("examples/hello.rs"));
}

#[test]
fn hello_is_short() {
    let lines = read("examples/hello.rs").lines().count();
    assert!(lines <= 25, "{lines} lines");
}

#[test]
fn the_version_is_in_the_changelog() {
    let version = format!("## {}", env!("CARGO_PKG_VERSION"));
    assert!(
        read("CHANGELOG.md").contains(&version),
        "{version:?} is missing"
    );
}

#[test]
fn the_lifecycle_uses_nothing_of_this_crate_and_no_clock_and_no_socket() {
    let source = read("src/lifecycle.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    for line in code
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
    {
        for word in [
            "crate::",
            "super::",
            "std::io",
            "std::net",
            "std::time",
            "std::process",
        ] {
            assert!(!line.contains(word), "{word} in `{line}`");
        }
    }
}

#[test]
fn each_dependency_has_a_reason() {
    let manifest = read("Cargo.toml");
    let mut section = "";
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && line.contains(" = ") {
            assert!(before.starts_with("# "), "no reason above `{line}`");
        }
        before = line;
    }
}

#[test]
fn no_file_is_named_after_nothing() {
    const NOTHING: [&str; 8] = [
        "util", "utils", "common", "helper", "manager", "handler", "impl", "misc",
    ];
    let directories = ["src", "examples", "tests", "benches"];
    let files = directories.map(|directory| rust_files(&root().join(directory)));
    for path in files.into_iter().flatten() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!NOTHING.contains(&stem), "{}", path.display());
    }
}

#[test]
fn no_test_sleeps_or_is_ignored() {
    // Put together here so that this file does not find itself.
    let forbidden = [["thread::", "sleep"].concat(), ["#[", "ignore"].concat()];
    for path in rust_files(&root().join("tests")) {
        let source = fs::read_to_string(&path).unwrap();
        for words in &forbidden {
            assert!(
                !source.contains(words.as_str()),
                "{words} in {}",
                path.display()
            );
        }
    }
}
