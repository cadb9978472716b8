//! Flags as the parser of Kubernetes' programs (pflag) reads them: `--a=b`, `--a b`, `--a` for true,
//! `-v=2`. Which ones there are is in the table of each program, beside its `main.rs`.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::table::{FLAGS, USAGE};

/// A flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    /// Its name, without dashes.
    pub(crate) name: &'static str,
    /// What it takes.
    pub(crate) takes: Takes,
    /// What it does.
    pub(crate) does: Does,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// A text. The last one counts.
    Text,
    /// Texts: separated by commas, or in flags of their own.
    List,
    /// Texts, each in a flag of its own: they may have commas in them.
    Each,
    /// `true` or `false`; `true` when it is left out.
    Bool,
    /// A number.
    Number,
    /// A time as Go writes it: `1h30m`, `10s`.
    Duration,
}

/// What a flag does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    /// This.
    Something(&'static str),
    /// Nothing here, because of this.
    Nothing(&'static str),
    /// It cannot be done, and to leave it out would be dangerous: the program does not start.
    Refused(&'static str),
}

/// A row of a table.
pub(crate) const fn flag(name: &'static str, takes: Takes, does: Does) -> Flag {
    Flag { name, takes, does }
}

/// What flags do that make stock programs faster, or set limits that are not here.
pub(crate) const TUNED: Does = Does::Nothing("what it tunes is not there or tunes itself");

/// What was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given(BTreeMap<&'static str, Vec<String>>);

/// What to do with the arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Start with these flags.
    Start(Given),
    /// Explain them.
    Help,
    /// Say which version this is.
    Version,
}

/// The flag of this name, in any spelling that Kubernetes' programs take.
fn find(name: &str) -> Option<&'static Flag> {
    let name = name.replace('_', "-");
    FLAGS.iter().flat_map(|(_, flags)| *flags).find(|flag| flag.name == name)
}

/// Reads the arguments. The error names the one that is wrong.
pub(crate) fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, String> {
    let mut given = Given::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let long = name.strip_prefix("--").filter(|long| !long.is_empty());
        let (name, value) = match (long, name) {
            (Some("help"), _) | (_, "-h") => return Ok(Command::Help),
            (Some("version"), _) => return Ok(Command::Version),
            (Some(long), _) => (long, value),
            (None, "-v") => ("v", value),
            // The level directly behind it.
            (None, short) if short.starts_with("-v") && value.is_none() => {
                ("v", Some(short[2..].to_owned()))
            }
            _ if argument.starts_with('-') => return Err(format!("unknown flag: {argument}")),
            _ => return Err(format!("unknown argument: {argument:?}")),
        };
        let flag = find(name).ok_or_else(|| format!("unknown flag: --{name}"))?;
        let value = match value {
            Some(value) => value,
            None if flag.takes == Takes::Bool => "true".to_owned(),
            None => arguments.next().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
        };
        given.add(flag, value)?;
    }
    Ok(Command::Start(given))
}

impl Given {
    fn add(&mut self, flag: &Flag, value: String) -> Result<(), String> {
        let wrong = |why: &str| {
            Err(format!("invalid argument {value:?} for \"--{}\" flag: {why}", flag.name))
        };
        let values = self.0.entry(flag.name).or_default();
        match flag.takes {
            Takes::Each => values.push(value),
            Takes::List => {
                let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
                values.extend(texts.map(ToOwned::to_owned));
            }
            Takes::Bool if boolean(&value).is_none() => return wrong("it is true or false"),
            Takes::Number if value.parse::<f64>().is_err() => return wrong("it is not a number"),
            Takes::Duration if duration(&value).is_none() => {
                return wrong("it is not a time such as 30s or 1h30m");
            }
            _ => *values = vec![value],
        }
        Ok(())
    }

    /// A text; `None` when it was not given, or is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let text = self.0.get(name)?.last()?;
        (!text.is_empty()).then_some(text)
    }

    /// A list; empty when it was not given.
    pub(crate) fn list(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// A switch.
    pub(crate) fn is(&self, name: &str, default: bool) -> bool {
        self.text(name).and_then(boolean).unwrap_or(default)
    }

    /// A number, which has to be of this type.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            format!("invalid argument {text:?} for \"--{name}\" flag: it is out of range")
        });
        number.map(Some)
    }

    /// A time.
    #[allow(dead_code, reason = "not every program has flags with times")]
    pub(crate) fn time(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(duration)
    }

    /// What was given and has no effect, with the reasons.
    pub(crate) fn idle(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.flags().filter_map(|flag| match flag.does {
            Does::Nothing(why) => Some((flag.name, why)),
            _ => None,
        })
    }

    /// Refuses what cannot be done.
    pub(crate) fn check(&self) -> Result<(), String> {
        let refused = self.flags().find_map(|flag| match flag.does {
            Does::Refused(why) => Some(format!("--{} is not possible here: {why}", flag.name)),
            _ => None,
        });
        refused.map_or(Ok(()), Err)
    }

    fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.0.keys().filter_map(|name| find(name))
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, without signs.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..units] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[units..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

/// All flags, by what they are about.
pub(crate) fn help() -> String {
    let mut text = USAGE.to_owned();
    for (group, flags) in FLAGS {
        let _ = writeln!(text, "\n{group} flags:\n");
        for flag in *flags {
            let kind = match flag.takes {
                Takes::Text => " string",
                Takes::List | Takes::Each => " strings",
                Takes::Bool => "",
                Takes::Number => " int",
                Takes::Duration => " duration",
            };
            let does = match flag.does {
                Does::Something(help) => help.to_owned(),
                Does::Nothing(why) => format!("Accepted, without effect: {why}."),
                Does::Refused(why) => format!("Refused: {why}."),
            };
            let name = if flag.name == "v" { "-v, --v" } else { flag.name };
            let dashes = if flag.name == "v" { "" } else { "--" };
            let _ = writeln!(text, "  {dashes}{name}{kind}\n        {does}");
        }
    }
    text.push_str("\n  -h, --help\n  --version\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &str) -> Given {
        match parse(arguments.split(' ').map(ToOwned::to_owned)) {
            Ok(Command::Start(given)) => given,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(arguments: &str, expected: &str) {
        let error = parse(arguments.split(' ').map(ToOwned::to_owned)).unwrap_err();
        assert_eq!(error, expected);
    }

    // Of logs, because every program has them.
    #[test]
    fn values_follow_an_equals_sign_or_a_space() {
        let number = "log-file-max-size";
        for arguments in
            ["--log-file-max-size=64", "--log-file-max-size 64", "--log_file_max_size=64"]
        {
            assert_eq!(given(arguments).number(number), Ok(Some(64_u16)));
        }
        for arguments in ["-v=2", "-v 2", "-v2", "--v=2", "--v 2"] {
            assert_eq!(given(arguments).number("v"), Ok(Some(2_u8)), "{arguments}");
        }
    }

    #[test]
    fn switches_need_no_value_and_take_none_from_the_next_argument() {
        let given = given("--logtostderr --one-output=false --log-file-max-size 1");
        assert!(given.is("logtostderr", false));
        assert!(!given.is("one-output", true));
        assert!(given.is("alsologtostderr", true) && given.text("alsologtostderr").is_none());
    }

    #[test]
    fn lists_are_joined_and_keep_their_order() {
        let given = given("--vmodule=a=1,b=2 --vmodule c=3");
        assert_eq!(given.list("vmodule"), ["a=1", "b=2", "c=3"]);
        assert!(given.list("log-dir").is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("--no-such-flag=1", "unknown flag: --no-such-flag");
        refused("-x", "unknown flag: -x");
        refused("serve", "unknown argument: \"serve\"");
        refused("--log-dir", "flag needs an argument: --log-dir");
        let error = "invalid argument \"x\" for \"--log-file-max-size\" flag: it is not a number";
        refused("--log-file-max-size=x", error);
        let error = "invalid argument \"maybe\" for \"--one-output\" flag: it is true or false";
        refused("--one-output=maybe", error);
        let error = given("--log-file-max-size=70000").number::<u16>("log-file-max-size");
        let error = error.unwrap_err();
        assert!(error.contains("--log-file-max-size"), "{error}");
    }

    #[test]
    fn times_are_gos() {
        for (text, milliseconds) in
            [("10s", 10_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("200ms", 200), ("0", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "10", "s", "1x", "1h3"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn every_flag_has_one_row_and_is_explained() {
        let help = help();
        let all: Vec<_> = FLAGS.iter().flat_map(|(_, flags)| *flags).map(|f| f.name).collect();
        for (index, name) in all.iter().enumerate() {
            assert!(!all[..index].contains(name), "{name} is there twice");
            assert!(help.contains(name), "{name}");
        }
    }
}
