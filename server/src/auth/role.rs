//! Four roles and seven permissions: the one table that says who may do what.

use std::fmt;

/// What a route asks for. Every route names exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    Read,
    Write,
    Admin,
    Metrics,
    ManageSchemas,
    ManagePipelines,
    ManageTenants,
}

impl Permission {
    pub const ALL: [Permission; 7] = [
        Permission::Read,
        Permission::Write,
        Permission::Admin,
        Permission::Metrics,
        Permission::ManageSchemas,
        Permission::ManagePipelines,
        Permission::ManageTenants,
    ];

    /// The word that error texts use.
    pub fn name(self) -> &'static str {
        match self {
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Admin => "admin",
            Permission::Metrics => "metrics",
            Permission::ManageSchemas => "manage_schemas",
            Permission::ManagePipelines => "manage_pipelines",
            Permission::ManageTenants => "manage_tenants",
        }
    }
}

/// A set of permissions. Sets are compared by inclusion, never by a rank of roles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    pub const NONE: Permissions = Permissions(0);
    pub const ALL: Permissions = Permissions::of(&Permission::ALL);

    pub const fn of(list: &[Permission]) -> Permissions {
        let mut bits = 0;
        let mut index = 0;
        while index < list.len() {
            bits |= 1 << list[index] as u8;
            index += 1;
        }
        Permissions(bits)
    }

    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    pub const fn intersection(self, other: Permissions) -> Permissions {
        Permissions(self.0 & other.0)
    }

    /// One bit for each, the first in the table the lowest.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What [`Permissions::bits`] gave.
    pub const fn from_bits(bits: u8) -> Permissions {
        assert!(bits & !Permissions::ALL.0 == 0);
        Permissions(bits)
    }

    pub const fn is_subset_of(self, other: Permissions) -> bool {
        self.0 & !other.0 == 0
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Permission::ALL.into_iter().filter(|permission| self.contains(*permission))).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Developer,
    ReadOnly,
    ServiceAccount,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Admin, Role::Developer, Role::ReadOnly, Role::ServiceAccount];

    pub const fn permissions(self) -> Permissions {
        use Permission::{Admin, ManagePipelines, ManageSchemas, ManageTenants, Metrics, Read, Write};
        match self {
            Role::Admin => {
                Permissions::of(&[Read, Write, Admin, Metrics, ManageSchemas, ManagePipelines, ManageTenants])
            }
            Role::Developer => Permissions::of(&[Read, Write, Metrics, ManageSchemas, ManagePipelines]),
            Role::ReadOnly => Permissions::of(&[Read, Metrics]),
            Role::ServiceAccount => Permissions::of(&[Read, Write]),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Developer => "developer",
            Role::ReadOnly => "readonly",
            Role::ServiceAccount => "serviceaccount",
        }
    }

    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_roles_is_the_documented_one() {
        // Read, write, admin, metrics, schemas, pipelines, tenants.
        let table = [
            (Role::Admin, "1111111"),
            (Role::Developer, "1101110"),
            (Role::ReadOnly, "1001000"),
            (Role::ServiceAccount, "1100000"),
        ];
        for (role, expected) in table {
            let row: String = Permission::ALL
                .into_iter()
                .map(|permission| if role.permissions().contains(permission) { '1' } else { '0' })
                .collect();
            assert_eq!(row, expected, "{role:?}");
        }
    }

    #[test]
    fn names_of_roles_read_back_and_nothing_else_does() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.name()), Some(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{}\"", role.name()));
        }
        for permission in Permission::ALL {
            assert_eq!(serde_json::to_string(&permission).unwrap(), format!("\"{}\"", permission.name()));
        }
        for wrong in ["", "Admin", "admin ", "root", "service_account", "read-only"] {
            assert_eq!(Role::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn inclusion_is_by_set_and_not_by_rank() {
        assert!(Role::ReadOnly.permissions().is_subset_of(Role::Developer.permissions()));
        assert!(!Role::ReadOnly.permissions().is_subset_of(Role::ServiceAccount.permissions()));
        assert!(Permissions::NONE.is_subset_of(Role::ReadOnly.permissions()));
        assert_eq!(format!("{:?}", Role::ServiceAccount.permissions()), "{Read, Write}");
    }
}
