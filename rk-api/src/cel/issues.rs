//! What is wrong with an expression, with the place, as Kubernetes prints it.

use std::fmt;

/// One thing wrong, at a place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// From 1.
    pub line: usize,
    /// From 1, in characters. 0 for the expression as a whole.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    snippet: Option<String>,
}

/// An expression that does not parse, or whose types do not agree. Prints every issue with the line
/// it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, in the order of the source. Never empty.
    pub issues: Vec<Issue>,
    /// Whether the expression is well-formed, and only no program can be made of it.
    instantiation: bool,
}

impl std::error::Error for CompileError {}

impl CompileError {
    pub(crate) fn new(issues: Vec<Issue>) -> Self {
        Self { issues, instantiation: false }
    }

    /// What is well-formed, but cannot be made a program of.
    pub(crate) fn instantiation(message: String) -> Self {
        let issue = Issue { line: 0, column: 0, message, snippet: None };
        Self { issues: vec![issue], instantiation: true }
    }

    /// What failed and why, as kube-apiserver tells who wrote the expression.
    pub fn described(&self) -> String {
        match self.instantiation {
            true => format!("program instantiation failed: {self}"),
            false => format!("compilation failed: {self}"),
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (true, [issue]) = (self.instantiation, self.issues.as_slice()) {
            return f.write_str(&issue.message);
        }
        for (n, issue) in self.issues.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            issue.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.column == 0 {
            return write!(f, "ERROR: <input>:-1:0: {}", self.message);
        }
        write!(f, "ERROR: <input>:{}:{}: {}", self.line, self.column, self.message)?;
        let Some(line) = &self.snippet else { return Ok(()) };
        write!(f, "\n | {line}\n | ")?;
        let mut chars = line.chars();
        for _ in 1..self.column {
            // Under a wide character goes a wide dot, so that the mark stands below its place.
            f.write_str(if chars.next().is_some_and(|c| c.len_utf8() > 1) { "．" } else { "." })?;
        }
        f.write_str(if chars.next().is_some_and(|c| c.len_utf8() > 1) { "＾" } else { "^" })
    }
}

/// Gathers issues; at most so many as anyone reads.
#[derive(Debug)]
pub(crate) struct Issues<'s> {
    source: &'s str,
    found: Vec<(usize, Issue)>,
}

/// As many as a client is shown.
const MAX_ISSUES: usize = 100;

impl<'s> Issues<'s> {
    pub fn new(source: &'s str) -> Self {
        Self { source, found: Vec::new() }
    }

    /// Adds what is wrong at the byte offset `at`.
    pub fn report(&mut self, at: usize, message: impl Into<String>) {
        if self.found.len() >= MAX_ISSUES {
            return;
        }
        let mut at = at.min(self.source.len());
        while !self.source.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.source[..at];
        let start = before.rfind('\n').map_or(0, |n| n + 1);
        let line = before.matches('\n').count() + 1;
        let column = self.source[start..at].chars().count() + 1;
        let snippet = self.source[start..].split('\n').next().unwrap_or("").replace('\t', " ");
        self.found
            .push((at, Issue { line, column, message: message.into(), snippet: Some(snippet) }));
    }

    /// Adds what is wrong with the expression as a whole.
    pub fn report_whole(&mut self, message: impl Into<String>) {
        if self.found.len() < MAX_ISSUES {
            self.found
                .push((0, Issue { line: 0, column: 0, message: message.into(), snippet: None }));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The error, if anything was found.
    pub fn into_error(mut self) -> Option<CompileError> {
        self.found.sort_by_key(|(at, _)| *at);
        let issues: Vec<_> = self.found.into_iter().map(|(_, issue)| issue).collect();
        (!issues.is_empty()).then(|| CompileError::new(issues))
    }
}
