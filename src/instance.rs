//! Which instance this host is, asked of the host itself.
//!
//! On Nitro the firmware (SMBIOS baseboard asset tag) bears the instance id: whoever answers for the metadata
//! service cannot change it. On Xen the hypervisor only says that it is EC2's; the id then comes from the
//! metadata, or from the configuration, which may pin it.

use std::fmt;
use std::path::Path;

use crate::file;
use crate::reason::{Reason, Refusal};

/// An EC2 instance id: `i-` and 8 to 32 lower-case hexadecimal digits (8 or 17 today).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceId(String);

impl InstanceId {
    const DIGITS: std::ops::RangeInclusive<usize> = 8..=32;

    /// Takes `text` if it is an instance id, whole.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("i-")?;
        let holds = Self::DIGITS.contains(&digits.len())
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        holds.then(|| Self(text.to_owned()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The firmware bears the instance's id.
    Nitro(InstanceId),
    /// EC2's Xen, which bears no id. Holds the configured one, if one is.
    Xen(Option<InstanceId>),
}

/// Both files hold one short line; sysfs gives at most a page.
const SYSFS_LIMIT: u64 = 4096;

impl Host {
    /// Reads the host's own evidence below `sysfs`; `pinned` is `[instance] id`.
    ///
    /// # Errors
    /// [`Reason::NotEc2`] where neither file says EC2; [`Reason::InstanceId`] where the firmware's id is not
    /// the pinned one.
    pub fn detect(sysfs: &Path, pinned: Option<&InstanceId>) -> Result<Self, Refusal> {
        if line(&sysfs.join("hypervisor/uuid")).is_some_and(|uuid| uuid.starts_with("ec2")) {
            return Ok(Self::Xen(pinned.cloned()));
        }
        let asset_tag = line(&sysfs.join("devices/virtual/dmi/id/board_asset_tag"));
        let Some(id) = asset_tag.as_deref().and_then(InstanceId::new) else {
            return Err(Refusal::new(
                Reason::NotEc2,
                "neither the hypervisor's uuid nor the board's asset tag is an EC2 instance's",
            ));
        };
        match pinned {
            Some(pinned) if *pinned != id => Err(Refusal::new(
                Reason::InstanceId,
                format!("the firmware says {id}, the configuration {pinned}"),
            )),
            _ => Ok(Self::Nitro(id)),
        }
    }

    /// The instance's id without asking the metadata, where the host or the configuration knows it.
    #[must_use]
    pub fn known_id(&self) -> Option<&InstanceId> {
        match self {
            Self::Nitro(id) => Some(id),
            Self::Xen(pinned) => pinned.as_ref(),
        }
    }
}

/// The file's one line without its newline; nothing if there is no such file or it is not one line of text.
fn line(path: &Path) -> Option<String> {
    let text = String::from_utf8(file::read_kernel(path, SYSFS_LIMIT).ok()?).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ID: &str = "i-0123456789abcdef0";

    fn sysfs(xen: Option<&str>, dmi: Option<&str>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("hypervisor/uuid", xen),
            ("devices/virtual/dmi/id/board_asset_tag", dmi),
        ] {
            if let Some(content) = content {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
        root
    }

    fn detect(xen: Option<&str>, dmi: Option<&str>, pinned: Option<&str>) -> Result<Host, Reason> {
        let pinned = pinned.map(|id| InstanceId::new(id).unwrap());
        Host::detect(sysfs(xen, dmi).path(), pinned.as_ref()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn the_asset_tag_names_a_nitro_instance() {
        let nitro = Ok(Host::Nitro(InstanceId::new(ID).unwrap()));
        assert_eq!(detect(None, Some("i-0123456789abcdef0\n"), None), nitro);
        assert_eq!(detect(None, Some(ID), Some(ID)), nitro);
        // A Xen file that is not EC2's says nothing.
        assert_eq!(detect(Some("deadbeef\n"), Some(ID), None), nitro);
    }

    #[test]
    fn ec2s_xen_is_an_instance_without_an_id() {
        let uuid = Some("ec2e1916-9099-7caf-fd21-012345abcdef\n");
        assert_eq!(detect(uuid, None, None), Ok(Host::Xen(None)));
        assert_eq!(
            detect(uuid, Some("Not Specified\n"), Some(ID)),
            Ok(Host::Xen(InstanceId::new(ID)))
        );
    }

    #[test]
    fn a_host_that_says_nothing_of_ec2_is_refused() {
        for dmi in [
            None,
            Some(""),
            Some("\n"),
            Some("Default string\n"),
            Some("i-XYZ\n"),
            Some(" i-0123456789abcdef0"),
        ] {
            assert_eq!(detect(None, dmi, None), Err(Reason::NotEc2), "{dmi:?}");
            assert_eq!(
                detect(Some("EC2e1916\n"), dmi, None),
                Err(Reason::NotEc2),
                "{dmi:?}"
            );
            // A configured id does not make an instance of a host.
            assert_eq!(detect(None, dmi, Some(ID)), Err(Reason::NotEc2), "{dmi:?}");
        }
    }

    #[test]
    fn a_firmware_that_contradicts_the_configuration_is_refused() {
        assert_eq!(
            detect(None, Some(ID), Some("i-0123456789abcdef1")),
            Err(Reason::InstanceId)
        );
    }

    #[test]
    fn ids_have_eight_to_thirty_two_lower_case_digits() {
        for good in [
            "i-01234567",
            "i-0123456789abcdef0",
            &format!("i-{}", "a".repeat(32)),
        ] {
            assert!(InstanceId::new(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "i-",
            "i-0123456",
            "i-0123456G",
            "i-0123456A",
            "j-01234567",
            "i-01234567\n",
            &format!("i-{}", "a".repeat(33)),
        ] {
            assert!(InstanceId::new(bad).is_none(), "{bad}");
        }
    }
}
