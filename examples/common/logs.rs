//! Where the log goes and how much of it there is, as klog's flags say it.

use std::{fs, io, path::Path, sync::Mutex};

use rk::{api::clock, k8s_openapi::jiff::tz::TimeZone};
use tracing_subscriber::{
    EnvFilter,
    fmt::writer::{BoxMakeWriter, MakeWriterExt},
};

use crate::flags::{
    Does::{Nothing, Something},
    Flag, Given, TUNED,
    Takes::{Bool, Duration, List, Number, Text},
    flag,
};

/// The flags of logs.
pub(crate) const FLAGS: &[Flag] = &[
    flag(
        "v",
        Number,
        Something("How much is logged: 0 to 3 little, 4 and 5 more, from 6 on all. Default: 0."),
    ),
    flag("vmodule", List, Something("module=level for single modules.")),
    flag(
        "logtostderr",
        Bool,
        Something("Whether the log goes to standard error and not to files. Default: true."),
    ),
    flag("alsologtostderr", Bool, Something("Whether it goes there too. Default: false.")),
    flag("log-dir", Text, Something("The folder of log files.")),
    flag("log-file", Text, Something("One file for the log, instead of a folder.")),
    flag("logging-format", Text, Something("text, the only one.")),
    flag("log-file-max-size", Number, TUNED),
    flag("log-flush-frequency", Duration, Nothing("every line is written at once")),
    flag("log-backtrace-at", Text, TUNED),
    flag("log-json-info-buffer-size", Text, TUNED),
    flag("log-json-split-stream", Bool, TUNED),
    flag("log-text-info-buffer-size", Text, TUNED),
    flag("log-text-split-stream", Bool, TUNED),
    flag("one-output", Bool, TUNED),
    flag("stderrthreshold", Text, TUNED),
    flag("skip-headers", Bool, TUNED),
    flag("skip-log-headers", Bool, TUNED),
    flag("add-dir-header", Bool, TUNED),
];

/// Begins to log. The error names the flag.
pub(crate) fn start(given: &Given, program: &str) -> Result<(), String> {
    let directives = directives(given.number("v")?.unwrap_or(0), given.list("vmodule"))?;
    let filter = EnvFilter::try_new(&directives).map_err(|error| format!("--vmodule: {error}"))?;
    if let Some(other) = given.text("logging-format").filter(|format| *format != "text") {
        return Err(format!("--logging-format={other}: there is only text"));
    }
    let file = if given.is("logtostderr", true) { None } else { file(given, program)? };
    let writer = match file {
        None => BoxMakeWriter::new(io::stderr),
        Some(file) if given.is("alsologtostderr", false) => {
            BoxMakeWriter::new(Mutex::new(file).and(io::stderr))
        }
        Some(file) => BoxMakeWriter::new(Mutex::new(file)),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false).init();
    Ok(())
}

/// klog's levels as what tracing understands.
fn directives(level: u8, modules: &[String]) -> Result<String, String> {
    let of = |level| match level {
        0 => "info",
        1..=3 => "info,rk_api=debug,rk_store=debug,rk_controllers=debug",
        4..=5 => "debug",
        _ => "trace",
    };
    let mut directives = of(level).to_owned();
    for module in modules {
        let wrong = || format!("--vmodule={module} is not module=level");
        let (name, level) = module.split_once('=').ok_or_else(wrong)?;
        let level: u8 = level.parse().map_err(|_| wrong())?;
        let level = match level {
            0 => "info",
            1..=5 => "debug",
            _ => "trace",
        };
        directives.push_str(&format!(",{name}={level}"));
    }
    Ok(directives)
}

/// The file, if one is named: `--log-file`, or one in `--log-dir` whose name says host, user, time
/// and process, with a link `<program>.INFO` to the latest.
fn file(given: &Given, program: &str) -> Result<Option<fs::File>, String> {
    let open = |path: &Path| fs::File::options().create(true).append(true).open(path);
    if let Some(path) = given.text("log-file") {
        let file = open(path.as_ref()).map_err(|error| format!("--log-file={path}: {error}"))?;
        return Ok(Some(file));
    }
    let Some(directory) = given.text("log-dir") else { return Ok(None) };
    let wrong = |error: io::Error| format!("--log-dir={directory}: {error}");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().split('.').next().unwrap_or_default().to_owned();
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
    let time = clock::now().to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    let process = std::process::id();
    let name = format!("{program}.{host}.{user}.log.INFO.{time}.{process}");
    let directory = Path::new(directory);
    let file = open(&directory.join(&name)).map_err(wrong)?;
    let link = directory.join(format!("{program}.INFO"));
    if let Err(error) = fs::remove_file(&link)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(wrong(error));
    }
    std::os::unix::fs::symlink(&name, &link).map_err(wrong)?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_logged_at_higher_levels_and_for_single_modules() {
        assert_eq!(directives(0, &[]).unwrap(), "info");
        assert!(directives(2, &[]).unwrap().contains("rk_api=debug"));
        assert_eq!(directives(9, &[]).unwrap(), "trace");
        let modules = ["rk_store=4".to_owned()];
        assert_eq!(directives(0, &modules).unwrap(), "info,rk_store=debug");
        assert!(directives(0, &["x".to_owned()]).unwrap_err().contains("--vmodule=x"));
    }
}
