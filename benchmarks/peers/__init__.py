"""What one EM iteration, a fit and a choice of K cost and reach beside other libraries."""
