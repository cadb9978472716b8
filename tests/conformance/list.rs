//! Which of the requirements have a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
};

const REQUIREMENTS: &str = include_str!("requirements.txt");
const MARK: &str = "Conformance:";
const CONTAINER: &str = "container:";

/// The requirements of one of Kubernetes' groups.
#[derive(Debug, Default, PartialEq)]
struct Group<'a> {
    name: &'a str,
    requirements: Vec<&'a str>,
    /// How many look into running containers.
    need_container: usize,
}

fn groups(text: &str) -> Vec<Group<'_>> {
    let mut groups = Vec::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            groups.push(Group { name, ..Group::default() });
        } else if let Some(group) = groups.last_mut() {
            let inner = line.strip_prefix(CONTAINER);
            group.need_container += usize::from(inner.is_some());
            group.requirements.push(inner.unwrap_or(line).trim());
        }
    }
    groups
}

/// What the comments of a source name, in order.
fn named(source: &str) -> impl Iterator<Item = &str> {
    let comments = source.lines().filter_map(|line| line.trim().strip_prefix("//"));
    let texts = comments.map(|comment| comment.trim_start_matches(['/', '!']).trim());
    texts.filter_map(|text| text.strip_prefix(MARK)).map(str::trim)
}

/// The sources that may hold tests, of all crates.
fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut left: Vec<PathBuf> = vec![root.join("tests"), root.join("src")];
    for entry in std::fs::read_dir(root).expect("the repository can be read").flatten() {
        let is_crate = entry.path().join("Cargo.toml").is_file();
        left.extend(
            is_crate
                .then(|| [entry.path().join("tests"), entry.path().join("src")])
                .into_iter()
                .flatten(),
        );
    }
    let mut sources = Vec::new();
    while let Some(path) = left.pop() {
        if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            sources.push(path);
        } else if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("the folder can be read");
            left.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    sources.sort();
    sources
}

/// How many of the requirements are named, by group, in one line.
fn summary(groups: &[Group<'_>], covered: &BTreeSet<&str>) -> String {
    let parts = groups.iter().map(|group| {
        let found = group.requirements.iter().filter(|name| covered.contains(*name)).count();
        format!("{} {found} of {}", group.name, group.requirements.len())
    });
    let need_container: usize = groups.iter().map(|group| group.need_container).sum();
    let parts = parts.collect::<Vec<_>>().join(", ");
    format!("conformance: {parts} ({need_container} need a container)")
}

#[test]
fn tests_name_requirements_that_there_are() {
    let groups = groups(REQUIREMENTS);
    let known: BTreeSet<&str> =
        groups.iter().flat_map(|group| group.requirements.iter().copied()).collect();
    let sources: BTreeMap<PathBuf, String> = sources()
        .into_iter()
        .map(|path| {
            let source = std::fs::read_to_string(&path).expect("a source is text");
            (path, source)
        })
        .collect();
    let mut covered = BTreeSet::new();
    let mut unknown = Vec::new();
    for (path, source) in &sources {
        // This file writes of the mark itself.
        if path.ends_with(file!()) {
            continue;
        }
        for name in named(source) {
            match known.get(name) {
                Some(name) => drop(covered.insert(*name)),
                None => unknown.push(format!("{}: {name}", path.display())),
            }
        }
    }
    assert!(unknown.is_empty(), "not in requirements.txt:\n{}", unknown.join("\n"));

    // Written past the harness, which would keep it to itself when the test passes.
    let _ = writeln!(std::io::stdout().lock(), "{}", summary(&groups, &covered));
}

#[test]
fn requirements_and_comments_are_read() {
    let groups = groups("# of the list\n[a]\none\ncontainer: two\n\n[b]\nthree\n");
    assert_eq!(groups[0].requirements, ["one", "two"]);
    assert_eq!((groups[0].need_container, groups[1].need_container), (1, 0));
    let source =
        "// Conformance: one\nfn x() {}\n    /// Conformance: three\n let y = \"Conformance: z\";";
    let covered: BTreeSet<&str> = named(source).collect();
    assert_eq!(covered, BTreeSet::from(["one", "three"]));
    assert_eq!(summary(&groups, &covered), "conformance: a 1 of 2, b 1 of 1 (1 need a container)");
}
