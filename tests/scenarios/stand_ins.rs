//! Images for the node with real containers: the sample images, and stand-ins for the servers that
//! the documents run, which listen on the same ports.

use std::path::Path;

use rk::cri::images::{
    ImageConfig, ImageError,
    build::{ImageBuilder, busybox_image},
    samples::{samples, web_server},
};

/// All of them.
pub(crate) fn images(busybox: &Path) -> Result<Vec<ImageBuilder>, ImageError> {
    let mut images = samples(busybox)?;
    images.push(busybox_image("busyboxplus:latest", busybox)?);
    images.push(web_server("nginx:latest", "Welcome to nginx!\n", busybox)?);
    images.push(pi(busybox)?);
    images.push(speaker(busybox)?);
    images.push(listener("redis:latest", 6379, busybox)?);
    images.push(listener("memcached:latest", 11211, busybox)?);
    Ok(images)
}

/// Answers every connection to a port with one line.
fn listener(name: &str, port: u16, busybox: &Path) -> Result<ImageBuilder, ImageError> {
    let listen = format!("trap 'exit 0' TERM; nc -ll -p {port} -e echo {name} & wait");
    Ok(busybox_image(name, busybox)?.config(ImageConfig {
        cmd: ["/bin/sh", "-c", &listen].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        ..ImageConfig::default()
    }))
}

/// A `perl` that knows one program: `print bpi(DIGITS)`.
fn pi(busybox: &Path) -> Result<ImageBuilder, ImageError> {
    let script = "#!/bin/sh\nfor argument; do digits=$(echo \"$argument\" | tr -cd 0-9); done\n\
                  echo \"scale=$digits+10; 16*a(1/5)-4*a(1/239)\" | BC_LINE_LENGTH=0 bc -l | \
                  cut -c1-$((digits+1))\n";
    Ok(busybox_image("perl:latest", busybox)?.file("/bin/perl", script, 0o755))
}

/// Says that it says what the image says, or what it is told to.
fn speaker(busybox: &Path) -> Result<ImageBuilder, ImageError> {
    Ok(busybox_image("speaker:v1", busybox)?.config(ImageConfig {
        entrypoint: ["/bin/echo", "said"].map(str::to_owned).to_vec(),
        cmd: ["by", "default"].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        ..ImageConfig::default()
    }))
}
