-- Written by `make schema` from the migrations; never run. Change a migration instead.
GRANT USAGE ON SCHEMA TO tokenworks_posting

TABLE reconciliation.acceptances
    statement_id uuid NOT NULL
    accepted_at timestamp with time zone NOT NULL
    actor text NOT NULL
    CONSTRAINT acceptances_pkey PRIMARY KEY (statement_id)
    CONSTRAINT acceptances_statement_id_fkey FOREIGN KEY (statement_id) REFERENCES reconciliation.proposals(statement_id)
    CREATE TRIGGER acceptances_append_only BEFORE DELETE OR UPDATE ON reconciliation.acceptances FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE reconciliation.lines
    -- The lines of statements, each with what it was found to be.
    statement_id uuid NOT NULL
    line_number integer NOT NULL
    supplier_id uuid NOT NULL
    reference text NOT NULL
    call_id uuid
    occurred_at timestamp with time zone
    model text
    input_tokens bigint
    output_tokens bigint
    quanta bigint NOT NULL
    verdict text NOT NULL
    attempt_call_id uuid
    attempt_ordinal integer
    attempt_owed_quanta bigint
    day date
    CONSTRAINT lines_attempt_whole CHECK ((verdict = ANY (ARRAY['matched'::text, 'amount_differs'::text])) = (attempt_call_id IS NOT NULL) AND (attempt_call_id IS NULL) = (attempt_ordinal IS NULL) AND (attempt_call_id IS NULL) = (attempt_owed_quanta IS NULL))
    CONSTRAINT lines_pkey PRIMARY KEY (statement_id, line_number)
    CONSTRAINT lines_quanta_check CHECK (quanta >= 0)
    CONSTRAINT lines_statement_id_fkey FOREIGN KEY (statement_id) REFERENCES reconciliation.statements(statement_id)
    CONSTRAINT lines_verdict_known CHECK (verdict = ANY (ARRAY['matched'::text, 'amount_differs'::text, 'missing_here'::text, 'duplicate'::text, 'ambiguous'::text]))
    CREATE UNIQUE INDEX lines_attempt_billed_once ON reconciliation.lines USING btree (attempt_call_id, attempt_ordinal) WHERE (attempt_call_id IS NOT NULL)
    CREATE INDEX lines_by_reference ON reconciliation.lines USING btree (supplier_id, reference)
    CREATE TRIGGER lines_append_only BEFORE DELETE OR UPDATE ON reconciliation.lines FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE reconciliation.proposals
    -- Correcting entries that nobody posted yet, or somebody accepted.
    statement_id uuid NOT NULL
    fact_id uuid NOT NULL
    quanta bigint NOT NULL
    CONSTRAINT proposals_change_something CHECK (quanta <> 0)
    CONSTRAINT proposals_pkey PRIMARY KEY (statement_id)
    CONSTRAINT proposals_statement_id_fkey FOREIGN KEY (statement_id) REFERENCES reconciliation.statements(statement_id)
    CREATE TRIGGER proposals_append_only BEFORE DELETE OR UPDATE ON reconciliation.proposals FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE reconciliation.statements
    -- What suppliers say they are owed, as they said it.
    statement_id uuid NOT NULL
    supplier_id uuid NOT NULL
    party_id uuid NOT NULL
    file_name text NOT NULL
    file_sha256 bytea NOT NULL
    content bytea NOT NULL
    columns json NOT NULL
    currency text NOT NULL
    since timestamp with time zone NOT NULL
    until timestamp with time zone NOT NULL
    tolerance_quanta bigint NOT NULL
    tolerance_ppm integer NOT NULL
    window_s integer NOT NULL
    line_count integer NOT NULL
    total_quanta numeric(39,0) NOT NULL
    imported_at timestamp with time zone NOT NULL
    actor text NOT NULL
    CONSTRAINT statements_file_once UNIQUE (supplier_id, file_sha256)
    CONSTRAINT statements_period CHECK (since < until)
    CONSTRAINT statements_pkey PRIMARY KEY (statement_id)
    CONSTRAINT statements_supplier_id_fkey FOREIGN KEY (supplier_id) REFERENCES supply.suppliers(supplier_id)
    CONSTRAINT statements_tolerance CHECK (tolerance_quanta >= 0 AND tolerance_ppm >= 0 AND tolerance_ppm <= 1000000 AND window_s >= 0)
    CREATE INDEX statements_by_supplier ON reconciliation.statements USING btree (supplier_id, statement_id)
    CREATE TRIGGER statements_append_only BEFORE DELETE OR UPDATE ON reconciliation.statements FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting

TABLE reconciliation.unbilled_attempts
    -- Attempts that no line of the statement certainly bills.
    statement_id uuid NOT NULL
    call_id uuid NOT NULL
    ordinal integer NOT NULL
    model text NOT NULL
    started_at timestamp with time zone NOT NULL
    owed_quanta bigint NOT NULL
    verdict text NOT NULL
    CONSTRAINT unbilled_attempts_pkey PRIMARY KEY (statement_id, call_id, ordinal)
    CONSTRAINT unbilled_attempts_statement_id_fkey FOREIGN KEY (statement_id) REFERENCES reconciliation.statements(statement_id)
    CONSTRAINT unbilled_attempts_verdict_known CHECK (verdict = ANY (ARRAY['missing_at_supplier'::text, 'ambiguous'::text]))
    CREATE TRIGGER unbilled_attempts_append_only BEFORE DELETE OR UPDATE ON reconciliation.unbilled_attempts FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()
    GRANT INSERT, SELECT TO tokenworks_posting
