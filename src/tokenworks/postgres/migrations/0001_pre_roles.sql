-- Three roles, so that the running hub cannot rewrite history even if it wanted to:
-- the owner of the schema migrates, tokenworks_posting serves calls, tokenworks_retention
-- detaches old partitions. Roles belong to the whole server, so they may exist already.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tokenworks_posting', 'tokenworks_retention'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;  -- another database of this server made it
            WHEN insufficient_privilege THEN
                RAISE WARNING 'single-role database: role % could not be created', role_name;
        END;
    END LOOP;
END
$$;
