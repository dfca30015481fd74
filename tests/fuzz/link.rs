//! A link's words and its output: what the administrator wrote and what sshd says become arguments, and what the command
//! says becomes lines, or nothing.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use ec2_instance_connect::link::Template;
use ec2_instance_connect::link::keeper;
use ec2_instance_connect::link::lines::{Lines, MAX_LINE, MAX_OUTPUT};
use ec2_instance_connect::request::Words;

/// The command's words in lines, `%%`, then sshd's: name, fingerprint, home, key and its type. Each argument is one word
/// whatever is in it, and nothing of sshd's begins with a hyphen where it begins an argument. Gives the number of arguments.
pub fn words(data: &[u8]) -> usize {
    let parts = super::parts(data);
    let command = String::from_utf8_lossy(parts[0]);
    let command: Vec<String> = command.lines().map(str::to_owned).collect();
    let Ok(template) = Template::new(&command) else {
        return 0;
    };
    assert!(template.program().is_absolute());
    // What is written out again is the same command.
    assert_eq!(Template::new(&template.words()).as_ref(), Ok(&template));
    let said = parts.get(1).copied().unwrap_or_default();
    let mut said = said
        .split(|byte| *byte == b'\n')
        .map(|word| OsString::from_vec(word.to_vec()));
    let words = Words {
        user: said.next().unwrap_or_default(),
        fingerprint: said.next(),
        home: said.next(),
        key: said.next(),
        key_type: said.next(),
        connection: None,
    };
    let Ok(arguments) = template.expand(&words) else {
        return 0;
    };
    assert_eq!(arguments.len() + 1, command.len());
    for (argument, written) in arguments.iter().zip(&command[1..]) {
        if written.starts_with('%') && !written.starts_with("%%") {
            assert!(
                !argument.as_bytes().starts_with(b"-"),
                "{argument:?} of {written}"
            );
        }
        if !written.contains('%') {
            assert_eq!(argument.as_bytes(), written.as_bytes());
        }
    }
    arguments.len()
}

/// A command's output is passed on as it is, but for a last newline, or not at all; a keeper's word on it likewise. Gives
/// the number of lines that sshd would look at.
pub fn lines(data: &[u8]) -> usize {
    if let Ok(output) = keeper::verdict(data) {
        assert!(data.ends_with(&output));
        assert_eq!(
            data,
            [format!("gave {}\n", output.len()).as_bytes(), &output].concat()
        );
    }
    let Ok(lines) = Lines::new(data.to_vec()) else {
        return 0;
    };
    let text = lines.text();
    assert!(data.len() <= MAX_OUTPUT);
    assert!(text == data || (text.strip_suffix(b"\n") == Some(data) && !data.ends_with(b"\n")));
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= MAX_LINE);
        assert!(line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control()));
    }
    assert_eq!(Lines::new(text.to_vec()).as_ref(), Ok(&lines));
    lines.count()
}
