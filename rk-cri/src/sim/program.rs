//! What a simulated program does: a short list of steps, written in code or read from a command
//! line in a small subset of the shell's language.

use std::time::Duration;

/// The steps of a program. The default runs forever, prints nothing, and ends with code 0 when it
/// is asked to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub(super) steps: Box<[Step]>,
    pub(super) term: OnTerm,
}

/// One step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Print {
        error: bool,
        text: Box<str>,
    },
    Sleep(Duration),
    /// Copies standard input to standard output (in an exec session only).
    Cat,
    Exit(i32),
    /// Goes back to the step of this number.
    Loop(usize),
    Forever,
    Trap(OnTerm),
}

/// What a program does on `SIGTERM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTerm {
    /// Ends with code 0.
    #[default]
    Quit,
    /// Ends with this code.
    Exit(i32),
    /// Carries on, until it is killed.
    Ignore,
    /// Ends with code 0 after a while.
    QuitAfter(Duration),
}

impl Program {
    /// Runs until it is stopped.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Ends by itself after `delay`.
    pub fn exit_after(delay: Duration, code: i32) -> Self {
        Self { steps: Box::new([Step::Sleep(delay), Step::Exit(code)]), term: OnTerm::Quit }
    }

    /// The same program, printing `lines` first.
    pub fn printing<'a>(mut self, lines: impl IntoIterator<Item = &'a str>) -> Self {
        let prints = lines
            .into_iter()
            .map(|line| Step::Print { error: false, text: format!("{line}\n").into() });
        let mut steps: Vec<Step> = prints.collect();
        let shift = steps.len();
        steps.extend(std::mem::take(&mut self.steps).into_vec().into_iter().map(
            |step| match step {
                Step::Loop(to) => Step::Loop(to + shift),
                other => other,
            },
        ));
        if steps.len() == shift {
            steps.push(Step::Forever);
        }
        self.steps = steps.into();
        self
    }

    /// The same program with another answer to `SIGTERM`.
    pub fn on_term(mut self, term: OnTerm) -> Self {
        self.term = term;
        self
    }

    /// Prints what `output` holds and ends with its code.
    pub(super) fn answer(output: &crate::runtime::ExecOutput) -> Self {
        let print = |error, bytes: &[u8]| Step::Print {
            error,
            text: String::from_utf8_lossy(bytes).into(),
        };
        let steps = [
            print(false, &output.stdout),
            print(true, &output.stderr),
            Step::Exit(output.exit_code),
        ];
        Self { steps: Box::new(steps), term: OnTerm::Quit }
    }

    /// Reads a command line; `None` when it is none of the programs known here.
    ///
    /// Known are `sh -c SCRIPT` (also `bash`, `ash`, with a path), `echo`, `sleep`, `true`,
    /// `false`, `cat` and `env`. A script is a list of those, of `exit CODE`, `:`,
    /// `trap '' TERM`, `trap 'exit CODE' TERM` and `while true; do …; done`, between `;`, `&&` or
    /// ends of lines; `>&2` sends an `echo` to standard error; `$NAME` and `${NAME}` are looked
    /// up in `env`. `false` ends a script. A script with anything else in it is not known.
    pub fn parse(command: &[String], env: &[(String, String)]) -> Option<Self> {
        let name = command.first()?.rsplit('/').next()?;
        if matches!(name, "sh" | "bash" | "ash" | "dash") {
            let mut rest = command[1..].iter();
            let script = loop {
                match rest.next()?.as_str() {
                    "-c" | "-ec" | "-xc" | "-exc" => break rest.next()?,
                    flag if flag.starts_with('-') => {}
                    _ => return None,
                }
            };
            return parse_script(script, env);
        }
        let mut parser = Parser { env, steps: Vec::new() };
        parser.simple(command)?;
        Some(parser.finish())
    }
}

/// Splits a script into words; separators come as words of their own.
fn words(script: &str, env: &[(String, String)]) -> Option<Vec<Word>> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = script.chars().peekable();
    let flush = |word: &mut Option<String>, out: &mut Vec<Word>| {
        if let Some(text) = word.take() {
            out.push(Word::Text(text));
        }
    };
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => flush(&mut word, &mut out),
            '\n' | ';' => {
                flush(&mut word, &mut out);
                out.push(Word::End);
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '&' if chars.next_if_eq(&'&').is_some() => {
                flush(&mut word, &mut out);
                out.push(Word::End);
            }
            '\'' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => text.push(c),
                    }
                }
            }
            '"' => {
                word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '$' => word.get_or_insert_default().push_str(&variable(&mut chars, env)?),
                        '\\' => word.get_or_insert_default().push(chars.next()?),
                        c => word.get_or_insert_default().push(c),
                    }
                }
            }
            '$' => word.get_or_insert_default().push_str(&variable(&mut chars, env)?),
            '\\' => word.get_or_insert_default().push(chars.next()?),
            '>' => {
                if word.as_deref() == Some("1") {
                    word = None;
                }
                flush(&mut word, &mut out);
                if chars.next()? != '&' || chars.next()? != '2' {
                    return None;
                }
                out.push(Word::ToStderr);
            }
            '|' | '<' | '`' | '(' | ')' | '&' | '*' | '?' => return None,
            c => word.get_or_insert_default().push(c),
        }
    }
    flush(&mut word, &mut out);
    Some(out)
}

#[derive(Debug, PartialEq)]
enum Word {
    Text(String),
    End,
    ToStderr,
}

fn variable(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    env: &[(String, String)],
) -> Option<String> {
    let braced = chars.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if (braced && chars.next() != Some('}')) || name.is_empty() {
        return None;
    }
    Some(env.iter().rev().find(|(key, _)| *key == name).map(|(_, v)| v.clone()).unwrap_or_default())
}

fn parse_script(script: &str, env: &[(String, String)]) -> Option<Program> {
    let mut parser = Parser { env, steps: Vec::new() };
    let words = words(script, env)?;
    let mut loops = Vec::new();
    let mut error = false;
    let mut command: Vec<String> = Vec::new();
    let ended = std::iter::once(&Word::End);
    for word in words.iter().chain(ended) {
        match word {
            Word::Text(text) if command.is_empty() && text == "do" => {}
            Word::Text(text) => command.push(text.clone()),
            Word::ToStderr => error = true,
            Word::End => {
                let line: Vec<&str> = command.iter().map(String::as_str).collect();
                match line[..] {
                    [] => {}
                    ["while", "true" | ":"] | ["while", "[", "1", "]"] => {
                        loops.push(parser.steps.len())
                    }
                    ["done"] => {
                        let start = loops.pop()?;
                        // A loop that takes no time would never give way to anything else.
                        let waits = parser.steps[start..]
                            .iter()
                            .any(|step| matches!(step, Step::Sleep(time) if !time.is_zero()));
                        parser.steps.push(if waits { Step::Loop(start) } else { Step::Forever });
                    }
                    ["trap", action, "TERM" | "SIGTERM" | "15"] => {
                        let on_term = match action.strip_prefix("exit") {
                            None if action.is_empty() => OnTerm::Ignore,
                            Some(code) if code.trim().is_empty() => OnTerm::Exit(0),
                            Some(code) => OnTerm::Exit(code.trim().parse().ok()?),
                            None => return None,
                        };
                        parser.steps.push(Step::Trap(on_term));
                    }
                    _ => {
                        let before = parser.steps.len();
                        parser.simple(&command)?;
                        if error {
                            for step in &mut parser.steps[before..] {
                                if let Step::Print { error, .. } = step {
                                    *error = true;
                                }
                            }
                        }
                    }
                }
                command.clear();
                error = false;
            }
        }
    }
    loops.is_empty().then(|| parser.finish())
}

struct Parser<'a> {
    env: &'a [(String, String)],
    steps: Vec<Step>,
}

impl Parser<'_> {
    /// One simple command.
    fn simple(&mut self, command: &[String]) -> Option<()> {
        let (name, args) = command.split_first()?;
        match name.rsplit('/').next()? {
            "exec" if !args.is_empty() => self.simple(args)?,
            "echo" => {
                let (newline, args) = match args.split_first() {
                    Some((flag, rest)) if flag == "-n" => ("", rest),
                    _ => ("\n", args),
                };
                let text = format!("{}{newline}", args.join(" "));
                self.steps.push(Step::Print { error: false, text: text.into() });
            }
            "env" | "printenv" if args.is_empty() => {
                let text: String = self.env.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
                self.steps.push(Step::Print { error: false, text: text.into() });
            }
            "sleep" => match args {
                [time] if matches!(time.as_str(), "infinity" | "inf") => {
                    self.steps.push(Step::Forever)
                }
                [time] => self.steps.push(Step::Sleep(duration(time)?)),
                _ => return None,
            },
            "cat" if args.is_empty() => self.steps.push(Step::Cat),
            "true" | ":" => {}
            "false" => self.steps.push(Step::Exit(1)),
            "exit" => {
                let code = args.first().map_or(Some(0), |code| code.parse().ok())?;
                self.steps.push(Step::Exit(code));
            }
            _ => return None,
        }
        Some(())
    }

    fn finish(mut self) -> Program {
        self.steps.push(Step::Exit(0));
        Program { steps: self.steps.into(), term: OnTerm::Quit }
    }
}

/// A time as `sleep` and the annotations write it: `2`, `0.5`, `90s`, `5m`, `1h`, `100ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let seconds: f64 = digits.parse().ok()?;
    Duration::try_from_secs_f64(seconds * unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Option<Vec<Step>> {
        let command = ["/bin/sh", "-c", script].map(String::from);
        let env = [("WHO".to_string(), "world".to_string())];
        Program::parse(&command, &env).map(|program| program.steps.into_vec())
    }

    fn print(text: &str) -> Step {
        Step::Print { error: false, text: text.into() }
    }

    #[test]
    fn scripts_of_the_known_commands_are_read() {
        let second = Step::Sleep(Duration::from_secs(1));
        assert_eq!(
            sh("echo hello \"$WHO\" && sleep 1; exit 3"),
            Some(vec![print("hello world\n"), second.clone(), Step::Exit(3), Step::Exit(0)])
        );
        assert_eq!(
            sh("echo -n 'a b' >&2"),
            Some(vec![Step::Print { error: true, text: "a b".into() }, Step::Exit(0)])
        );
        assert_eq!(
            sh("trap '' TERM\nwhile true; do echo x; sleep 1; done"),
            Some(vec![
                Step::Trap(OnTerm::Ignore),
                print("x\n"),
                second,
                Step::Loop(1),
                Step::Exit(0)
            ])
        );
        assert_eq!(sh("while :; do :; done").map(|steps| steps[0].clone()), Some(Step::Forever));
    }

    #[test]
    fn anything_else_is_not_known() {
        for script in ["nginx -g daemon off", "echo a | wc", "cat /etc/hosts", "echo $(date)", "'"]
        {
            assert_eq!(sh(script), None, "{script}");
        }
        assert_eq!(Program::parse(&["nginx".into()], &[]), None);
        assert_eq!(Program::parse(&[], &[]), None);
    }

    #[test]
    fn durations_are_read_with_and_without_unit() {
        for (text, expected) in
            [("2", 2000), ("0.5", 500), ("100ms", 100), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(expected)), "{text}");
        }
        assert_eq!(duration("soon"), None);
        assert_eq!(duration("-1"), None);
    }
}
