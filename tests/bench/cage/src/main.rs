//! What entering the helper's cage costs: prints the microseconds that it took this process, and what is in force. With
//! any argument it enters none, so that the rest of its own cost can be taken away. For `tests/bench/run`.
#![forbid(unsafe_code)]

use std::time::Instant;

use ec2_instance_connect::cage::{self, Needs};
use ec2_instance_connect::config::Anchors;
use ec2_instance_connect::trust::anchors;

fn main() {
    if std::env::args_os().len() > 1 {
        println!("0 none");
        return;
    }
    // What an installation without any configuration needs.
    let read = anchors::files(&Anchors::Auto);
    let begun = Instant::now();
    let held = cage::enter(&Needs {
        read: &read,
        ..Needs::default()
    });
    let took = begun.elapsed();
    println!("{} {held}", took.as_micros());
}
