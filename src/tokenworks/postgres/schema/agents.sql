-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting
